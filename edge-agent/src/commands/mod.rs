//! Corrective commands: what the cloud, or a rule on the device, may have this machine do.
//!
//! A command names an entry of the allow-list ([`allow`]) and gives values for its argument template;
//! nothing else can be run, and no shell is ever between. What was decided of an id is a row of the
//! buffer ([`ledger`]), written in the same transaction as the event that reports it: `running` is on
//! disk before the program starts, so that a command runs at most once, whatever is delivered again or
//! breaks down. [`runner`] runs a program with limits; [`service`] joins them.
//!
//! Reading order: `allow`, `ledger`, `runner`, `report`, `request`, `service`.

mod allow;
mod ledger;
mod passwd;
mod report;
mod request;
mod runner;
mod service;

pub(crate) use allow::DEVICE;
#[cfg(test)]
pub(crate) use allow::argv;
pub use allow::{Allowed, Characters, Limit, Template, TemplateError};
pub use request::{Commands, Local, Stopped};
pub(crate) use service::start;

use std::path::PathBuf;

use runner::Program;

/// Why the allow-list cannot be used on this machine. `Display` names the key and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The program is not there, or nobody may execute it.
    #[error("command {name:?}: program {path}: {reason}")]
    Program {
        /// The command.
        name: String,
        /// Its program.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The directory to run in is not there.
    #[error("command {name:?}: dir {path}: it is not a directory")]
    Dir {
        /// The command.
        name: String,
        /// Its directory.
        path: PathBuf,
    },
    /// The user cannot be switched to.
    #[error("command {name:?}: user {user:?}: {reason}")]
    User {
        /// The command.
        name: String,
        /// Its user.
        user: String,
        /// What is wrong.
        reason: String,
    },
}

/// Looks for the programs, directories and users of the allow-list.
///
/// **Errors**: the first that is not there, or cannot be used.
pub fn check(allowed: &[Allowed]) -> Result<(), StartError> {
    prepare(allowed).map(drop)
}

fn prepare(allowed: &[Allowed]) -> Result<Vec<Program>, StartError> {
    let is_root = rustix::process::geteuid().is_root();
    allowed
        .iter()
        .map(|a| {
            find_program(a)?;
            if !a.dir.is_dir() {
                return Err(StartError::Dir {
                    name: a.name.clone(),
                    path: a.dir.clone(),
                });
            }
            Ok(Program {
                path: a.program.clone(),
                env: a.env.clone(),
                dir: a.dir.clone(),
                identity: identity(a, is_root)?,
                timeout: a.timeout,
                stop_grace: a.stop_grace,
                output_bytes_max: a.output_bytes_max,
            })
        })
        .collect()
}

fn find_program(a: &Allowed) -> Result<(), StartError> {
    use std::os::unix::fs::PermissionsExt as _;
    let reason = match std::fs::metadata(&a.program) {
        Ok(m) if !m.is_file() => "it is not a file".to_owned(),
        Ok(m) if m.permissions().mode() & 0o111 == 0 => {
            "it is not executable; use chmod +x".to_owned()
        }
        Ok(_) => return Ok(()),
        Err(error) => error.to_string(),
    };
    Err(StartError::Program {
        name: a.name.clone(),
        path: a.program.clone(),
        reason,
    })
}

/// User and group to switch to.
fn identity(a: &Allowed, is_root: bool) -> Result<Option<(u32, u32)>, StartError> {
    let Some(user) = &a.user else {
        return Ok(None);
    };
    let wrong = |reason: &str| StartError::User {
        name: a.name.clone(),
        user: user.clone(),
        reason: reason.to_owned(),
    };
    if !is_root {
        return Err(wrong(
            "only root can run a program as another user; run the agent as root, or leave `user` out",
        ));
    }
    match std::fs::read_to_string("/etc/passwd") {
        Ok(text) => match passwd::find(&text, user) {
            Some(found) => Ok(Some(found)),
            None => Err(wrong("no such user in /etc/passwd")),
        },
        Err(error) => Err(wrong(&format!("read /etc/passwd: {error}"))),
    }
}

#[cfg(test)]
mod service_tests;
#[cfg(test)]
pub(crate) mod tests;
