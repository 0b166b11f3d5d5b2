//! One life of an agent process.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The identity of one life of an agent process: drawn at every process start and committed to the
/// buffer before the first event. Two lives never share both halves, even after a disk image was
/// rolled back or cloned.
///
/// Text form: `no-rand` with `rand` as 16 hex digits, for example `7-00c0ffee00c0ffee`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Incarnation {
    /// Stored counter + 1.
    pub no: u32,
    /// 64 random bits.
    pub rand: u64,
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.no, self.rand)
    }
}

impl FromStr for Incarnation {
    type Err = &'static str;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        const SHAPE: &str = "an incarnation has the shape <number>-<16 hex digits>";
        let (no, rand) = s.split_once('-').ok_or(SHAPE)?;
        if rand.len() != 16 {
            return Err(SHAPE);
        }
        Ok(Self {
            no: no.parse().map_err(|_| SHAPE)?,
            rand: u64::from_str_radix(rand, 16).map_err(|_| SHAPE)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_reads_back() {
        let inc = Incarnation {
            no: 7,
            rand: 0x00c0_ffee,
        };
        assert_eq!(inc.to_string().parse(), Ok(inc));
        assert!("7".parse::<Incarnation>().is_err());
        assert!("7-ff".parse::<Incarnation>().is_err());
    }
}
