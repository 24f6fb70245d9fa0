//! Which failures of a database are worth another try.

use super::StoreError;
use sqlx::postgres::PgDatabaseError;
use sqlx::sqlite::SqliteError;

/// Only what blames the values themselves is refused. All else, a wrong password and a missing table included, is no fault of the
/// change: to call it refused would make dead letters of good orders.
pub fn failed(doing: &str, error: sqlx::Error) -> StoreError {
    let refused = match &error {
        sqlx::Error::Database(e) => {
            if let Some(e) = e.try_downcast_ref::<PgDatabaseError>() {
                postgres_refuses(e.code())
            } else {
                e.try_downcast_ref::<SqliteError>().and_then(|_| e.code()).is_some_and(|code| sqlite_refuses(&code))
            }
        }
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::Encode(_) => true,
        _ => false,
    };
    let sentence = format!("{doing}: {error}");
    match refused {
        true => StoreError::Refused(sentence),
        false if is_away(&error) => StoreError::Away(sentence),
        false => StoreError::Transient(sentence),
    }
}

fn is_away(error: &sqlx::Error) -> bool {
    use sqlx::Error::*;
    match error {
        Io(_) | Tls(_) | Protocol(_) | PoolTimedOut | PoolClosed | WorkerCrashed => true,
        Database(e) => e.try_downcast_ref::<PgDatabaseError>().is_some_and(|e| postgres_is_away(e.code())),
        _ => false,
    }
}

/// By SQLSTATE: connections, resources of the server, and its being ended or not yet begun.
fn postgres_is_away(code: &str) -> bool {
    ["08", "53", "57P"].iter().any(|class| code.starts_with(class))
}

/// By SQLSTATE: data exceptions, constraints and limits. Not a unique violation: the same event under two orders at once; the next try sees it.
fn postgres_refuses(code: &str) -> bool {
    code != "23505" && ["21", "22", "23", "54"].iter().any(|class| code.starts_with(class))
}

/// TOOBIG, CONSTRAINT, MISMATCH, RANGE; extended codes carry the primary one in the low byte.
fn sqlite_refuses(code: &str) -> bool {
    code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 18 | 19 | 20 | 25))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bad_values_are_refused() {
        for code in ["22003", "22P05", "22021", "23502", "54000", "54001"] {
            assert!(postgres_refuses(code), "{code}");
        }
        for code in
            ["08006", "40001", "40P01", "53300", "53100", "57P01", "57014", "55P03", "23505", "28P01", "3D000", "42P01", "42501", "25006"]
        {
            assert!(!postgres_refuses(code), "{code}");
        }
        let away: Vec<&str> =
            ["08006", "53300", "53100", "57P01", "57P03", "57014", "40P01", "55P03"].into_iter().filter(|c| postgres_is_away(c)).collect();
        assert_eq!(
            away,
            ["08006", "53300", "53100", "57P01", "57P03"],
            "a lock that is held and a call that takes too long may be the change's own"
        );
        assert!(sqlite_refuses("1299"), "a column that must not be null");
        assert!(!sqlite_refuses("13") && !sqlite_refuses("5") && !sqlite_refuses("1"));
    }

    #[test]
    fn a_lost_connection_is_worth_another_try() {
        let lost = sqlx::Error::Io(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert!(matches!(failed("applying 3 changes", lost), StoreError::Away(s) if s.starts_with("applying 3 changes")));
        assert!(matches!(failed("x", sqlx::Error::PoolTimedOut), StoreError::Away(_)));
    }
}
