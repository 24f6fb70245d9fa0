//! Where a thing belongs in a trace: as W3C Trace Context writes it (`traceparent`), in requests and in messages.

use std::fmt;

/// The header's name, in HTTP and on messages alike.
pub const TRACEPARENT: &str = "traceparent";

/// A span of somebody: what is done because of it is its child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    pub trace: u128,
    pub span: u64,
    /// Whoever began the trace wants it recorded.
    pub sampled: bool,
}

impl Context {
    /// The beginning of a trace that is recorded.
    pub fn new((trace, span): (u128, u64)) -> Context {
        Context { trace, span, sampled: true }
    }

    /// As it is written.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }

    pub fn span_id(&self) -> String {
        format!("{:016x}", self.span)
    }

    /// None: there is none, or nothing that can be gone on with, which is the same to us as the standard wants it.
    pub fn read(header: &[u8]) -> Option<Context> {
        let text = std::str::from_utf8(header).ok()?;
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let version = hex(version, 2)?;
        // A later version may say more behind what we understand; this one says nothing more.
        if version == 0xff || (version == 0 && parts.next().is_some()) {
            return None;
        }
        let (trace, span, flags) = (hex(trace, 32)?, hex(span, 16)? as u64, hex(flags, 2)?);
        (trace != 0 && span != 0).then_some(Context { trace, span, sampled: flags & 1 == 1 })
    }
}

/// Lower case only, as the standard has it.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let fits = text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    fits.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_written_is_what_was_read() {
        let read = Context::read(PARENT.as_bytes());
        let expected = Context { trace: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, span: 0x00f0_67aa_0ba9_02b7, sampled: true };
        assert_eq!(read, Some(expected));
        assert_eq!(expected.to_string(), PARENT);
        let not_sampled = PARENT.replace("-01", "-00");
        assert_eq!(Context::read(not_sampled.as_bytes()).map(|context| context.to_string()), Some(not_sampled));
    }

    #[test]
    fn what_the_standard_forbids_is_no_parent_and_what_it_allows_for_later_is_one() {
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Context::read(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(Context::read(&[0xff, 0xfe]), None);
        for later in [PARENT.replacen("00", "01", 1), format!("{}-more", PARENT.replacen("00", "cc", 1))] {
            assert!(Context::read(later.as_bytes()).is_some_and(|context| context.sampled), "{later}");
        }
        assert!(Context::read(PARENT.replace("-01", "-03").as_bytes()).is_some_and(|context| context.sampled));
    }
}
