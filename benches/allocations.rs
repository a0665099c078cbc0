//! How often a check that is answered from memory allocates. A program of its own: the allocator that counts
//! would slow every other measurement.
//!
//! Prints the allocations of a check, rounded up, a line for each of [`Mode::ALL`].
#![expect(clippy::print_stdout, reason = "a program that reports to another one")]

#[path = "made.rs"]
mod made;

use made::{Made, Mode};

/// Checks that are counted.
const CHECKS: u64 = 1000;

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for mode in Mode::ALL {
        runtime.block_on(async {
            let made = Made::new(mode, 1, 1 << 20).await?;
            let text = made.texts.first().ok_or_else(|| anyhow::anyhow!("no key"))?;
            made.check(text)?;
            let (reads, mut passed) = (made.reads(), Ok(()));
            let counted = allocation_counter::measure(|| passed = (0..CHECKS).try_for_each(|_| made.check(text)));
            passed?;
            let from_memory = made.reads() == reads && made.held()?.0 == 1;
            anyhow::ensure!(from_memory, "a check was not answered from memory, {}", mode.name());
            // More than so many of each check would show, fewer not.
            println!("{}", counted.count_total.div_ceil(CHECKS));
            anyhow::Ok(())
        })?;
    }
    Ok(())
}
