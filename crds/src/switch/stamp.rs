use std::fmt;

/// Which epoch a message belongs to: `<lineage>:<epoch>`, in a header of every message and noted with commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp<'a> {
    pub lineage: &'a str,
    pub epoch: u64,
}

impl<'a> Stamp<'a> {
    /// None for anything else: such a message is of no lineage and not fenced.
    pub fn parse(text: &'a [u8]) -> Option<Stamp<'a>> {
        let colon = text.iter().rposition(|byte| *byte == b':')?;
        let lineage = std::str::from_utf8(&text[..colon]).ok().filter(|lineage| !lineage.is_empty())?;
        let digits = &text[colon + 1..];
        // One way to write a number: what is printed is what is parsed.
        let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) && (digits.len() == 1 || digits[0] != b'0');
        let epoch = std::str::from_utf8(digits).ok().filter(|_| plain)?.parse().ok()?;
        Some(Stamp { lineage, epoch })
    }
}

impl fmt::Display for Stamp<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.lineage, self.epoch)
    }
}
