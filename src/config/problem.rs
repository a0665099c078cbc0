//! What is wrong with a configuration: all of it at once, each with its place and remedy.

use std::fmt;

use super::source::Place;

/// One thing that is wrong. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where it stands.
    pub place: Place,
    /// The setting, such as `server.listen`; empty where the place says it all.
    pub setting: String,
    /// What is wrong with it, as the rest of a sentence that begins with the setting.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl Problem {
    /// A problem.
    #[must_use]
    pub fn new(
        place: Place,
        setting: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { place, setting: setting.into(), problem: problem.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, setting, problem, remedy } = self;
        match setting.as_str() {
            "" => write!(f, "{place} {problem}: {remedy}"),
            setting => write!(f, "{place}: {setting} {problem}: {remedy}"),
        }
    }
}

/// All that is wrong, each once, in the order of their places.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Adds one. The same at the same place again (a default that several realms inherit) changes
    /// nothing.
    pub(super) fn push(&mut self, new: Problem) {
        let same = |old: &Problem| {
            let what = (&old.place, &old.problem, &old.remedy) == (&new.place, &new.problem, &new.remedy);
            what && (old.setting == new.setting || new.place != Place::Nowhere)
        };
        if !self.0.iter().any(same) {
            let index = self.0.partition_point(|old| *old < new);
            self.0.insert(index, new);
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The problems.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

/// A line each.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
