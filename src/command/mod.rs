//! `tidewatch command`: give commands to devices through a running server, and see what becomes of them.

mod client;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use reqwest::Method;
use serde_json::{Map, Value, json};

use self::client::Client;
use crate::print;

/// Pause between two looks at a command that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The server has come to the command's record by then.
const KNOWN_WITHIN: Duration = Duration::from_secs(30);

/// Where the server is, and how to show what it says.
#[derive(Args)]
pub struct Server {
    /// The running server's page: http:// or https://
    #[arg(
        long,
        global = true,
        value_name = "URL",
        default_value = "http://127.0.0.1:8080"
    )]
    server: String,
    /// Print the server's JSON
    #[arg(long, global = true)]
    json: bool,
}

/// `tidewatch command …`.
#[derive(Subcommand)]
pub enum Command {
    /// Give a command to a device
    Send(Send),
    /// Show a command
    Show {
        /// Its id
        id: String,
    },
    /// List commands, newest first
    List(List),
    /// Take back a command that was not sent yet
    Cancel {
        /// Its id
        id: String,
        #[command(flatten)]
        author: Author,
    },
    /// Turn the stop switch, or show it: while it is on, nothing is sent but with --force
    Stop {
        /// Show it, if absent
        switch: Option<Switch>,
        #[command(flatten)]
        author: Author,
    },
    /// One command to many devices, a canary first
    #[command(subcommand)]
    Rollout(Rollout),
    /// The commands that a rule gives
    #[command(subcommand)]
    Rule(Rule),
}

/// `tidewatch command rule …`.
#[derive(Subcommand)]
pub enum Rule {
    /// Its alerts give no commands any more
    Stop {
        /// The rule
        name: String,
        #[command(flatten)]
        author: Author,
    },
    /// They do again, with a canary first
    Resume {
        /// The rule
        name: String,
        #[command(flatten)]
        author: Author,
    },
}

/// On or off.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Nothing is sent.
    On,
    /// Commands are sent.
    Off,
}

/// Who does it, for the record.
#[derive(Args)]
pub struct Author {
    /// Who does it, for the record [default: the user of this session]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
}

impl Author {
    fn put_into(&self, body: &mut Map<String, Value>) {
        let user = || {
            ["USER", "LOGNAME"]
                .iter()
                .find_map(|v| std::env::var(v).ok())
        };
        let by = self.by.clone().or_else(user);
        body.insert(
            "by".to_owned(),
            by.unwrap_or_else(|| "cli".to_owned()).into(),
        );
        if let Some(why) = &self.why {
            body.insert("why".to_owned(), why.as_str().into());
        }
    }
}

/// What is to be done on a device.
#[derive(Args)]
pub struct What {
    /// Name on the allow-list of the device's agent
    name: String,
    /// Arguments for the allow-list's template
    #[arg(value_name = "KEY=VALUE", value_parser = pair)]
    args: Vec<(String, String)>,
    /// How long it may start: a whole number and s, m, h or d
    #[arg(long, value_name = "TIME", default_value = "5m")]
    ttl: String,
    /// Its id: given again, it is not done again [default: made by the server]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Only record what would be sent
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    author: Author,
}

impl What {
    fn body(&self) -> Map<String, Value> {
        let args: Map<String, Value> = self
            .args
            .iter()
            .map(|(key, value)| (key.clone(), value.as_str().into()))
            .collect();
        let mut body = Map::new();
        body.insert("name".to_owned(), self.name.as_str().into());
        body.insert("args".to_owned(), args.into());
        body.insert("ttl".to_owned(), self.ttl.as_str().into());
        body.insert("dry_run".to_owned(), self.dry_run.into());
        if let Some(id) = &self.id {
            body.insert("id".to_owned(), id.as_str().into());
        }
        self.author.put_into(&mut body);
        body
    }
}

/// `tidewatch command send`.
#[derive(Args)]
pub struct Send {
    /// The device
    device: String,
    #[command(flatten)]
    what: What,
    /// Send it although the stop switch is on
    #[arg(long)]
    force: bool,
    /// Wait for its end; the exit code is 1 unless it succeeds
    #[arg(long)]
    wait: bool,
}

/// `tidewatch command list`.
#[derive(Args)]
pub struct List {
    /// Only in this state
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// Only of this device
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// Only of this rollout
    #[arg(long, value_name = "ID")]
    rollout: Option<String>,
    /// Only given by this rule
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
    /// At most so many, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
}

/// `tidewatch command rollout …`.
#[derive(Subcommand)]
pub enum Rollout {
    /// Begin one
    Begin(Begin),
    /// Show one, or all
    Show {
        /// Its id
        id: Option<String>,
    },
    /// Stop one; what was given out goes on
    Stop {
        /// Its id
        id: String,
        #[command(flatten)]
        author: Author,
    },
    /// Go on with one that stopped, with a canary again
    Resume {
        /// Its id
        id: String,
        #[command(flatten)]
        author: Author,
    },
}

/// `tidewatch command rollout begin`.
#[derive(Args)]
pub struct Begin {
    #[command(flatten)]
    what: What,
    /// A device; may be given many times
    #[arg(long = "device", value_name = "ID")]
    devices: Vec<String>,
    /// All devices with this attribute; given more than once, with all of them
    #[arg(long = "match", value_name = "KEY=VALUE", value_parser = pair, conflicts_with = "devices")]
    matches: Vec<(String, String)>,
    /// So many must succeed before the others get it
    #[arg(long, value_name = "N", default_value_t = 1)]
    canary: u32,
    /// So many may be under way at a time; 0 = no limit
    #[arg(long, value_name = "N", default_value_t = 50)]
    at_once: u32,
    /// So many of the others may fail without stopping the rest
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_failures: u32,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE, such as speed=3".to_owned()),
    }
}

/// Carries it out.
///
/// **Errors**: the server cannot be reached, or refuses it.
pub async fn run(server: Server, command: Command) -> anyhow::Result<ExitCode> {
    let client = Client::new(&server.server)?;
    let show = |value: &Value, text: &dyn Fn(&Value) -> String| match server.json {
        true => print(format_args!("{value:#}\n")),
        false => print(text(value)),
    };
    match command {
        Command::Send(send) => {
            let given = give(&client, &send).await?;
            if !send.wait {
                show(&given, &given_text);
                return Ok(ExitCode::SUCCESS);
            }
            let id = given["id"].as_str().context("the answer has no id")?;
            let ended = wait(&client, id).await?;
            show(&ended, &command_text);
            let good = matches!(ended["state"].as_str(), Some("succeeded" | "dry_run"));
            return Ok(if good {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        Command::Show { id } => {
            show(&client.get(&["commands", &id], &[]).await?, &command_text);
        }
        Command::List(list) => {
            let limit = list.limit.to_string();
            let filters = [
                ("state", &list.state),
                ("device", &list.device),
                ("rollout", &list.rollout),
                ("rule", &list.rule),
            ];
            let mut query = vec![("limit", limit.as_str())];
            query.extend(
                filters
                    .iter()
                    .filter_map(|(k, v)| Some((*k, v.as_deref()?))),
            );
            show(&client.get(&["commands"], &query).await?, &list_text);
        }
        Command::Cancel { id, author } => {
            let path = ["commands", &id, "cancel"];
            show(&steer(&client, &path, &author).await?, &accepted_text);
        }
        Command::Stop { switch, author } => {
            if let Some(switch) = switch {
                let mut body = Map::new();
                body.insert("on".to_owned(), (switch == Switch::On).into());
                author.put_into(&mut body);
                let path = ["commands", "stop"];
                let answer = client.change(Method::PUT, &path, &body.into()).await?;
                show(&answer, &accepted_text);
            } else {
                show(&client.get(&["commands", "stop"], &[]).await?, &stop_text);
            }
        }
        Command::Rollout(Rollout::Begin(begin)) => {
            let mut body = begin.what.body();
            let matches = begin.matches.iter();
            let matches: Map<String, Value> = matches
                .map(|(k, v)| (k.clone(), v.as_str().into()))
                .collect();
            match (begin.devices.is_empty(), matches.is_empty()) {
                (false, _) => body.insert("devices".to_owned(), begin.devices.into()),
                (true, false) => body.insert("match".to_owned(), matches.into()),
                (true, true) => bail!("name the devices: --device ID, or --match KEY=VALUE"),
            };
            for (key, n) in [
                ("canary", begin.canary),
                ("at_once", begin.at_once),
                ("max_failures", begin.max_failures),
            ] {
                body.insert(key.to_owned(), n.into());
            }
            let path = ["commands", "rollouts"];
            let answer = client.change(Method::POST, &path, &body.into()).await?;
            show(&answer, &|v| {
                format!("rollout {} to {} devices\n", text(&v["id"]), v["devices"])
            });
        }
        Command::Rollout(Rollout::Show { id: Some(id) }) => {
            let path = ["commands", "rollouts", &id];
            show(&client.get(&path, &[]).await?, &rollout_text);
        }
        Command::Rollout(Rollout::Show { id: None }) => {
            let all = client.get(&["commands", "rollouts"], &[]).await?;
            show(&all, &|v| items(v).map(rollout_text).collect());
        }
        Command::Rollout(Rollout::Stop { id, author }) => {
            let path = ["commands", "rollouts", &id, "stop"];
            show(&steer(&client, &path, &author).await?, &accepted_text);
        }
        Command::Rule(Rule::Stop { name, author }) => {
            let path = ["rules", &name, "commands", "stop"];
            show(&steer(&client, &path, &author).await?, &accepted_text);
        }
        Command::Rule(Rule::Resume { name, author }) => {
            let path = ["rules", &name, "commands", "resume"];
            show(&steer(&client, &path, &author).await?, &accepted_text);
        }
        Command::Rollout(Rollout::Resume { id, author }) => {
            let path = ["commands", "rollouts", &id, "resume"];
            show(&steer(&client, &path, &author).await?, &accepted_text);
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn give(client: &Client, send: &Send) -> anyhow::Result<Value> {
    let mut body = send.what.body();
    body.insert("force".to_owned(), send.force.into());
    let path = ["devices", &send.device, "commands"];
    client.change(Method::POST, &path, &body.into()).await
}

async fn steer(client: &Client, path: &[&str], author: &Author) -> anyhow::Result<Value> {
    let mut body = Map::new();
    author.put_into(&mut body);
    client.change(Method::POST, path, &json!(body)).await
}

/// Waits for a command's end. The server knows one in any case: what is not answered is given up in its time.
async fn wait(client: &Client, id: &str) -> anyhow::Result<Value> {
    let since = Instant::now();
    loop {
        match client.find(&["commands", id]).await? {
            Some(command) if !command["ended"].is_null() => return Ok(command),
            None if since.elapsed() > KNOWN_WITHIN => bail!(
                "the server does not come to the command {id}; is a partition behind? See its page"
            ),
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value["items"].as_array().into_iter().flatten()
}

fn given_text(v: &Value) -> String {
    let held = match v["stopped"].as_bool() {
        Some(true) => "; the stop switch is on, so it waits",
        _ => "",
    };
    let (id, name, device) = (text(&v["id"]), text(&v["name"]), text(&v["device"]));
    format!("{id} {}: {name} on {device}{held}\n", text(&v["state"]))
}

fn line(v: &Value) -> String {
    let supposed = match (v["certain"].as_bool(), v["ended"].is_null()) {
        (Some(false), false) => "?",
        _ => "",
    };
    format!(
        "{} {}{supposed}: {} on {}, {}",
        text(&v["id"]),
        text(&v["state"]),
        text(&v["name"]),
        text(&v["device"]),
        text(&v["issued"]),
    )
}

fn command_text(v: &Value) -> String {
    let mut out = line(v);
    out.push('\n');
    let fields = [
        ("agent", "agent"),
        ("by", "by"),
        ("why", "why"),
        ("rule", "rule"),
        ("rollout", "rollout"),
        ("alert", "alert"),
        ("expires", "expires"),
        ("sent", "sent"),
        ("sends", "times sent"),
        ("started", "started"),
        ("ended", "ended"),
        ("exit_code", "exit code"),
        ("duration_ms", "milliseconds"),
        ("reason", "reason"),
        ("output", "output"),
    ];
    for (key, name) in fields {
        match &v[key] {
            Value::Null => {}
            Value::String(empty) if empty.is_empty() => {}
            Value::String(text) => {
                let text = text.trim_end().replace('\n', "\n    ");
                let _ = writeln!(out, "  {name}: {text}");
            }
            other => {
                let _ = writeln!(out, "  {name}: {other}");
            }
        }
    }
    out
}

fn list_text(v: &Value) -> String {
    let mut out: String = items(v).map(|c| line(c) + "\n").collect();
    if !v["next"].is_null() {
        let _ = writeln!(out, "… {} in all", v["total"]);
    }
    out
}

fn stop_text(v: &Value) -> String {
    match v["on"].as_bool() {
        Some(true) => format!(
            "on since {} by {}: {}\n",
            text(&v["since"]),
            text(&v["by"]),
            text(&v["why"])
        ),
        _ => "off\n".to_owned(),
    }
}

fn accepted_text(v: &Value) -> String {
    format!("{} {}\n", text(&v["name"]), text(&v["action"]))
}

fn rollout_text(v: &Value) -> String {
    let mut out = format!(
        "{} {}: {} on {} devices; {} succeeded, {} failed, {} under way, {} wait\n",
        text(&v["id"]),
        text(&v["state"]),
        text(&v["name"]),
        v["total"],
        v["succeeded"],
        v["failed"],
        v["under_way"],
        v["waiting"],
    );
    if let Some(reason) = v["reason"].as_str() {
        let _ = writeln!(out, "  {reason}");
    }
    out
}
