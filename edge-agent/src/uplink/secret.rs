//! The password: where it comes from, and how it stays out of logs.

use std::fmt;
use std::path::PathBuf;

use super::file::{self, FileError};

/// Most bytes of a password: MQTT writes its length in two bytes.
const BYTES_MAX: u64 = 65_535;

/// Bytes that no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Hides `bytes`.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes, for the one who must send them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Where the password is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Password {
    /// There is none.
    None,
    /// It stands in the configuration or the environment.
    Text(Secret),
    /// In this file, read at each connection. A line end behind it is not part of it.
    File(PathBuf),
}

impl Password {
    /// The password as it is now; empty if there is none.
    ///
    /// **Errors**: the file cannot be read, is empty, or is longer than a password of MQTT can be.
    pub fn read(&self) -> Result<Secret, FileError> {
        let path = match self {
            Self::None => return Ok(Secret::new([])),
            Self::Text(secret) => return Ok(secret.clone()),
            Self::File(path) => path,
        };
        let mut bytes = file::read("password_file", path, BYTES_MAX)?;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        if bytes.is_empty() {
            return Err(FileError::new(
                "password_file",
                path,
                "is empty; write the password into it",
            ));
        }
        Ok(Secret(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_file_is_read_each_time_and_nothing_shows_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let password = Password::File(path.clone());
        let missing = password.read().unwrap_err().to_string();
        assert!(missing.contains("password_file") && missing.contains("No such file"));
        for (content, expected) in [
            ("s3cret\n", "s3cret"),
            ("new \r\n", "new "),
            ("a\nb", "a\nb"),
        ] {
            std::fs::write(&path, content).unwrap();
            let secret = password.read().unwrap();
            assert_eq!(secret.expose(), expected.as_bytes());
            assert!(!format!("{secret:?} {:?}", Password::Text(secret.clone())).contains(expected));
        }
        std::fs::write(&path, "\n").unwrap();
        assert!(
            password
                .read()
                .unwrap_err()
                .to_string()
                .contains("is empty")
        );
        std::fs::write(&path, vec![b'x'; 70_000]).unwrap();
        let long = password.read().unwrap_err().to_string();
        assert!(long.contains("more than 65535 bytes"), "{long}");
    }
}
