//! Lines for whoever runs a command. That one has read enough, as in `dlq list | head`, is no mistake, and no reason to leave undone what
//! was asked for.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

pub fn say(line: impl Display) -> io::Result<()> {
    heard(writeln!(io::stdout(), "{line}"))
}

/// What is wrong. Where not even that can be said, nobody is left to tell.
pub fn complain(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn heard(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_who_has_read_enough_is_no_mistake_and_a_full_disk_is() {
        assert!(heard(Err(ErrorKind::BrokenPipe.into())).is_ok());
        assert!(heard(Err(ErrorKind::StorageFull.into())).is_err());
    }
}
