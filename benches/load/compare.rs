//! ValidateKey beside the references: the servers take turns within each repetition.

use std::fmt::Write as _;
use std::time::Duration;

use super::Run;
use super::drive::{Figures, Load, Method, Pace, Span, median, run};
use super::report::{Report, number, times};
use super::servers::{Material, Server};

/// Connections, unless there is but one call in flight.
const CONNECTIONS: usize = 8;

/// One of those that are compared.
#[derive(Debug)]
pub(crate) struct Contender<'a> {
    pub(crate) name: &'static str,
    pub(crate) server: &'a Server,
    pub(crate) material: &'a Material,
}

impl Contender<'_> {
    fn load(&self, in_flight: usize, connections: usize) -> Load {
        Load {
            address: self.server.address,
            token: self.material.token.clone(),
            messages: self.material.valid.clone(),
            method: Method::Valid,
            connections,
            pace: Pace::Closed(in_flight / connections),
            may_be_refused: false,
        }
    }

    /// One run at `in_flight`.
    pub(crate) async fn measure(
        &self,
        in_flight: usize,
        connections: usize,
        measured: Duration,
    ) -> anyhow::Result<Figures> {
        let span = Span::of(measured);
        let figures = run(&[self.load(in_flight, connections)], self.server.process.id(), span).await?;
        Ok(figures.first().copied().unwrap_or_default())
    }
}

/// What a contender came to beside the same-runtime no-op.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ratio {
    pub(crate) name: &'static str,
    pub(crate) in_flight: usize,
    pub(crate) throughput: f64,
    pub(crate) p99: f64,
    pub(crate) cpu: f64,
    pub(crate) cpu_stock: f64,
}

/// Measures and reports them; the first two are the references.
pub(crate) async fn compare(
    contenders: &[Contender<'_>],
    run: &Run,
    report: &mut Report,
) -> anyhow::Result<Vec<Ratio>> {
    let mut text = String::new();
    let mut ratios = Vec::new();
    let levels: Vec<_> = run.in_flight.iter().map(|calls| (*calls, CONNECTIONS.min(*calls))).collect();
    let mut results = vec![vec![Vec::new(); contenders.len()]; levels.len()];
    for repetition in 0..run.repetitions {
        for (level, (in_flight, connections)) in results.iter_mut().zip(levels.iter().copied()) {
            // Another one begins each time.
            for turn in 0..contenders.len() {
                let place = (turn + repetition) % contenders.len();
                if let (Some(contender), Some(figures)) = (contenders.get(place), level.get_mut(place)) {
                    let one = contender.measure(in_flight, connections, run.measured).await?;
                    run.say(&format!("{} × {in_flight}: {:.0}/s, {:.2} µs CPU", contender.name, one.rate, one.cpu));
                    figures.push(one);
                }
            }
        }
    }
    for (level, (in_flight, connections)) in results.iter().zip(levels) {
        let plural = if connections == 1 { "" } else { "s" };
        write!(text, "\n### {in_flight} in flight, {connections} connection{plural}\n\n{HEAD}")?;
        for (contender, figures) in contenders.iter().zip(level) {
            let against = |reference: usize, of: fn(&Figures) -> f64| {
                median(
                    figures
                        .iter()
                        .zip(level.get(reference).into_iter().flatten())
                        .map(|(one, other)| of(one) / of(other)),
                )
            };
            let of = |of: fn(&Figures) -> f64| median(figures.iter().map(of));
            let rates = figures.iter().map(|one| one.rate);
            let (low, high) = (rates.clone().fold(f64::MAX, f64::min), rates.fold(0.0, f64::max));
            writeln!(
                text,
                "| {} | {} ({}–{}) | {} | {} | {} | {:.2} µs | {} | {} | {} | {} | {} | {} | {} |",
                contender.name,
                number(of(|one| one.rate)),
                number(low),
                number(high),
                times(of(|one| one.p50)),
                times(of(|one| one.p99)),
                times(of(|one| one.p999)),
                of(|one| one.cpu),
                ratio(against(0, |one| one.rate)),
                ratio(against(0, |one| one.p50)),
                ratio(against(0, |one| one.p99)),
                ratio(against(0, |one| one.p999)),
                ratio(against(0, |one| one.cpu)),
                ratio(against(1, |one| one.rate)),
                ratio(against(1, |one| one.cpu)),
            )?;
            ratios.push(Ratio {
                name: contender.name,
                in_flight,
                throughput: against(0, |one| one.rate),
                p99: against(0, |one| one.p99),
                cpu: against(0, |one| one.cpu),
                cpu_stock: against(1, |one| one.cpu),
            });
        }
    }
    report.section("ValidateKey beside a no-op", INTRODUCTION, &text);
    Ok(ratios)
}

const INTRODUCTION: &str = "\
Server on one core, client on the other. Medians of the repetitions; in brackets the least and the
most. \"× no-op\" and \"× stock\" are ratios of runs of the same repetition; CPU is the server's for a call. With one call in flight across two cores both sides sleep and are woken for each call, and
that is most of what is measured; the same on one core is further down.";

const HEAD: &str = "\
| server | calls/s | p50 | p99 | p99.9 | CPU a call | calls × no-op | p50 × | p99 × | p99.9 × | CPU × | calls × stock | CPU × |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
";

fn ratio(value: f64) -> String {
    format!("{value:.2}")
}

/// One call in flight, everything on one core.
pub(crate) async fn serial(contenders: &[Contender<'_>], run: &Run, report: &mut Report) -> anyhow::Result<()> {
    for contender in contenders {
        contender.server.process.move_to(run.cores.client)?;
    }
    let mut results = vec![Vec::new(); contenders.len()];
    for _ in 0..run.repetitions {
        for (contender, figures) in contenders.iter().zip(&mut results) {
            figures.push(contender.measure(1, 1, run.measured).await?);
        }
    }
    for contender in contenders {
        contender.server.process.move_to(run.cores.server)?;
    }
    let mut text = "| server | round trip p50 | p99 | CPU a call |\n|---|---|---|---|\n".to_owned();
    for (contender, figures) in contenders.iter().zip(&results) {
        let of = |of: fn(&Figures) -> f64| median(figures.iter().map(of));
        writeln!(
            text,
            "| {} | {} | {} | {:.2} µs |",
            contender.name,
            times(of(|one| one.p50)),
            times(of(|one| one.p99)),
            of(|one| one.cpu)
        )?;
    }
    report.section(
        "One call at a time, on one core",
        "Server and client (and Redis) share a core, so that nobody waits to be woken on another one.",
        &text,
    );
    Ok(())
}
