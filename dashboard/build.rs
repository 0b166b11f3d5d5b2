//! Builds the operators' page (`web/`) so that the crate can embed it.
//!
//! What the crate gets: the files of the page in `$OUT_DIR/web` (with `index.html` at the top and
//! hashed names under `assets/`), and the same path in the compile-time variable `TIDEWATCH_WEB`.
//! With rust-embed (features `interpolate-folder-path` and `debug-embed`):
//! `#[derive(RustEmbed)] #[folder = "$OUT_DIR/web"] struct Page;`
//!
//! What the environment can say:
//! - `TIDEWATCH_WEB_DIST=/path/to/dist`: embed this prebuilt page, run no npm.
//! - `TIDEWATCH_NO_WEB=1`: embed one page that says that the page was left out.
//!
//! The page is not type-checked or tested here: `npm run check` and `npm test` in `web/` do that.

#![allow(clippy::print_stdout)] // cargo reads a build script's stdout

use std::env;
use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What the page is made from. Nothing that the build writes may stand here, or every build would
/// cause the next one.
const INPUTS: [&str; 8] = [
    ".npmrc",
    "index.html",
    "package.json",
    "package-lock.json",
    "public",
    "src",
    "tsconfig.json",
    "vite.config.ts",
];

const NODE_MIN: (u32, u32) = (20, 19);

const WAYS_OUT: &str = "ways out:
  - install Node.js 20.19 or newer with npm (https://nodejs.org, or your distribution if it has that);
  - TIDEWATCH_WEB_DIST=/path/to/dist  embeds a page that was built elsewhere by `npm ci && npm run build` in dashboard/web;
  - TIDEWATCH_NO_WEB=1                builds without the page (the HTTP API, /metrics and all else stay)";

fn main() {
    if let Err(error) = run() {
        eprintln!("failed to build the operators' page: {error}\n\n{WAYS_OUT}");
        std::process::exit(1);
    }
}

fn run() -> Result<()> {
    for name in ["TIDEWATCH_WEB_DIST", "TIDEWATCH_NO_WEB"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=build.rs");

    let web = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("web");
    let out = PathBuf::from(env::var("OUT_DIR")?).join("web");
    println!("cargo:rustc-env=TIDEWATCH_WEB={}", out.display());

    if env::var_os("TIDEWATCH_NO_WEB").is_some_and(|value| !value.is_empty() && value != "0") {
        return write_absence(&out);
    }
    if let Some(dist) = env::var_os("TIDEWATCH_WEB_DIST").filter(|value| !value.is_empty()) {
        return copy_prebuilt(Path::new(&dist), &out);
    }
    for input in INPUTS {
        println!("cargo:rerun-if-changed={}", web.join(input).display());
    }
    build(&web, &out)
}

/// Installs the packages if they changed, then lets Vite write the page into `out`.
fn build(web: &Path, out: &Path) -> Result<()> {
    // Two builds at once (another profile, an editor's check) share `node_modules`; the lock goes
    // with the process, so a killed build leaves nothing behind.
    let lock = File::create(web.join(".build-lock"))?;
    lock.lock()?;
    check_node()?;
    install(web)?;
    let vite = web.join("node_modules/vite/bin/vite.js");
    let mut command = Command::new("node");
    command
        .current_dir(web)
        .arg(vite)
        .arg("build")
        .arg("--outDir")
        .arg(out)
        .arg("--emptyOutDir");
    check("vite build", command.output())?;
    if !out.join("index.html").is_file() {
        return Err(format!("vite build left no index.html in {}", out.display()).into());
    }
    Ok(())
}

/// An older node fails deep inside Vite with a message that helps nobody.
fn check_node() -> Result<()> {
    let version = check(
        "node --version",
        Command::new("node").arg("--version").output(),
    )?;
    let mut numbers = version
        .trim()
        .trim_start_matches('v')
        .split('.')
        .map(|n| n.parse::<u32>());
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= NODE_MIN => Ok(()),
        _ => {
            let (major, minor) = NODE_MIN;
            Err(format!(
                "node is {}, but {major}.{minor} or newer is needed",
                version.trim()
            )
            .into())
        }
    }
}

/// Runs `npm ci` unless the installed packages are those of the lock file.
fn install(web: &Path) -> Result<()> {
    let wanted = fs::read(web.join("package-lock.json"))?;
    let installed = web.join("node_modules/.tidewatch-installed");
    if fs::read(&installed).is_ok_and(|bytes| bytes == wanted) {
        return Ok(());
    }
    let npm = if cfg!(windows) { "npm.cmd" } else { "npm" };
    let mut command = Command::new(npm);
    // A cargo build with `NODE_ENV=production` in its environment still needs Vite.
    command
        .current_dir(web)
        .args(["ci", "--include=dev", "--no-audit", "--no-fund"]);
    check("npm ci", command.output())?;
    // Written last: a broken install is done again.
    fs::write(installed, wanted)?;
    Ok(())
}

/// The standard output of a command that succeeded.
fn check(what: &str, result: io::Result<Output>) -> Result<String> {
    match result {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(output) => Err(format!(
            "{what} ended with {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
        .into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(format!("{what} could not start: node and npm are not on the PATH").into())
        }
        Err(error) => Err(format!("{what} could not start: {error}").into()),
    }
}

fn copy_prebuilt(dist: &Path, out: &Path) -> Result<()> {
    println!("cargo:rerun-if-changed={}", dist.display());
    if !dist.join("index.html").is_file() {
        return Err(format!("TIDEWATCH_WEB_DIST={} holds no index.html", dist.display()).into());
    }
    recreate(out)?;
    copy_folder(dist, out)
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&target)?;
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn write_absence(out: &Path) -> Result<()> {
    recreate(out)?;
    let page = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Tidewatch</title>\
        <p>This server was built without its page (TIDEWATCH_NO_WEB). \
        The API is at <a href=\"/api/openapi.json\">/api/openapi.json</a>.</p></html>\n";
    fs::write(out.join("index.html"), page)?;
    Ok(())
}

fn recreate(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    fs::create_dir_all(folder)?;
    Ok(())
}
