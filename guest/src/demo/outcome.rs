//! How a step ended, in one word and some text.

use std::fmt;
use std::io;
use std::str::FromStr;

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// What is allowed works.
    Works,
    /// What is forbidden was done.
    Ran,
    /// The code was not executed: Linux was told so by a page fault, and killed the process.
    Refused,
    /// The code was not executed: the approved bytes were, having been put back.
    Restored,
    /// It came to no end.
    Hung,
    /// Anything else.
    Failed,
}

impl Ending {
    const ALL: [Ending; 6] =
        [Ending::Works, Ending::Ran, Ending::Refused, Ending::Restored, Ending::Hung, Ending::Failed];

    fn word(self) -> &'static str {
        match self {
            Ending::Works => "works",
            Ending::Ran => "ran",
            Ending::Refused => "refused",
            Ending::Restored => "restored",
            Ending::Hung => "hung",
            Ending::Failed => "failed",
        }
    }
}

/// How a step ended, and what showed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// In one word.
    pub ending: Ending,
    /// On one line.
    pub detail: String,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "result={} detail={}", self.ending.word(), self.detail)
    }
}

impl FromStr for Outcome {
    type Err = ();

    fn from_str(text: &str) -> Result<Outcome, ()> {
        let (word, detail) = text.strip_prefix("result=").and_then(|rest| rest.split_once(" detail=")).ok_or(())?;
        let ending = Ending::ALL.into_iter().find(|ending| ending.word() == word).ok_or(())?;
        Ok(Outcome { ending, detail: detail.to_string() })
    }
}

/// What went wrong on the way is a failure of the step.
impl From<io::Error> for Outcome {
    fn from(error: io::Error) -> Outcome {
        Outcome { ending: Ending::Failed, detail: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for ending in Ending::ALL {
            let outcome = Outcome { ending, detail: "a detail=b result=c".to_string() };
            assert_eq!(outcome.to_string().parse(), Ok(outcome));
        }
        assert_eq!("result=else detail=x".parse::<Outcome>(), Err(()));
        assert_eq!("".parse::<Outcome>(), Err(()));
    }
}
