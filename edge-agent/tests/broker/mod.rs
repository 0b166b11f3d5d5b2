//! A real broker (mosquitto) with TLS and passwords, and certificates for it.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};

/// Whether this machine has the broker. Without it a test says so and passes.
pub(crate) fn is_here() -> bool {
    let found = ["mosquitto", "mosquitto_passwd"].iter().all(|program| {
        let mut command = Command::new(program);
        let command = command.arg("--help").stdin(Stdio::null());
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok()
    });
    if !found {
        eprintln!("skipped: mosquitto is not here");
    }
    found
}

/// Somebody who signs certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    pub(crate) fn write(&self, path: &Path) {
        std::fs::write(path, &self.pem).unwrap();
    }

    /// Writes `NAME.pem` and `NAME.key` for `host`, valid until the end of `year`.
    pub(crate) fn sign(&self, dir: &Path, name: &str, host: &str, year: i32) {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, host);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 12, 31);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(dir.join(name).with_extension("pem"), certificate.pem()).unwrap();
        std::fs::write(dir.join(name).with_extension("key"), key.serialize_pem()).unwrap();
    }
}

/// What the listener for agents asks for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    /// Serve TLS with `NAME.pem` and `NAME.key`.
    pub(crate) certificate: Option<&'static str>,
    /// Ask for a certificate that `ca.pem` has signed.
    pub(crate) client_certificate: bool,
    /// Ask for this user and password.
    pub(crate) user: Option<(&'static str, &'static str)>,
}

/// A broker that ends with the test.
pub(crate) struct Broker {
    child: Child,
    dir: PathBuf,
    /// The port for agents.
    pub(crate) port: u16,
    /// Where the cloud connects.
    pub(crate) inner: SocketAddr,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Broker {
    /// Starts one with its files in `dir`.
    pub(crate) fn start(dir: &Path, options: Options) -> Self {
        let (port, inner) = (free_port(), SocketAddr::from(([127, 0, 0, 1], free_port())));
        let child = Self::spawn(dir, port, inner, options);
        let dir = dir.to_owned();
        Self {
            child,
            dir,
            port,
            inner,
        }
    }

    /// Ends it and starts it again on the same ports.
    pub(crate) fn restart(&mut self, options: Options) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = Self::spawn(&self.dir, self.port, self.inner, options);
    }

    fn spawn(dir: &Path, port: u16, inner: SocketAddr, options: Options) -> Child {
        // As root it would become a user that cannot read the files of the test.
        let mut text = format!(
            "user root\nper_listener_settings true\nlistener {} 127.0.0.1\nallow_anonymous true\n\
             listener {port} 127.0.0.1\nallow_anonymous {}\n",
            inner.port(),
            options.user.is_none(),
        );
        let file = |name: &str| dir.join(name).display().to_string();
        if let Some(name) = options.certificate {
            let (cert, key) = (file(&format!("{name}.pem")), file(&format!("{name}.key")));
            write!(
                text,
                "certfile {cert}\nkeyfile {key}\ncafile {}\n",
                file("ca.pem")
            )
            .unwrap();
            writeln!(text, "require_certificate {}", options.client_certificate).unwrap();
        }
        if let Some((user, password)) = options.user {
            let path = file("passwords");
            let made = Command::new("mosquitto_passwd")
                .args(["-b", "-c", &path, user, password])
                .stderr(Stdio::null())
                .status();
            assert!(made.unwrap().success());
            writeln!(text, "password_file {path}").unwrap();
        }
        let path = dir.join("mosquitto.conf");
        std::fs::write(&path, text).unwrap();
        let log = std::fs::File::create(dir.join("mosquitto.log")).unwrap();
        let mut child = Command::new("mosquitto")
            .arg("-c")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = child.try_wait().unwrap();
            assert!(
                ended.is_none() && began.elapsed() < Duration::from_secs(20),
                "mosquitto does not start: {}",
                std::fs::read_to_string(dir.join("mosquitto.log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        child
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
