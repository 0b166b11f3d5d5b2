//! The long help, in the parts of a manual page. `-h` is the short one. A test compares it with
//! `agent.sample.toml` and the options there are.

/// Order of the parts: clap fills in names, usage, commands and options.
pub const TEMPLATE: &str =
    "{name} - {about}\n\n{usage-heading} {usage}\n\n{before-help}{all-args}{after-help}";

pub const DESCRIPTION: &str = "\
Description:
  The agent runs on a device or gateway. Its sources read this machine, sensors, files, sockets,
  programs or an MQTT broker nearby. Each reading is stored in a buffer on disk before it counts as
  accepted, sent to the server in batches, and deleted only when the server has named it in an
  acknowledgement: whatever is killed, cut off or repeated, the server counts it once. Without a
  network it goes on for days, as far as the buffer has room; what has to be dropped is declared.

  It reads a TOML file, then the environment, then the options below; the later one wins. An unknown
  key is an error that names the nearest known one.";

pub const CONFIGURATION: &str = "\
Configuration:
  Keys of the file, with defaults. agent.sample.toml has all of them, those of the sections too, each
  with its default, unit and an example. --set KEY=VALUE and the environment set all but source and
  command.
    agent              the agent's id [default: the host name]
    server             mqtts://host:8883 or mqtt://host:1883 [default: mqtt://127.0.0.1:1883]
    user               user name there [default: the agent's id]
    password           password there [default: none]
    password_file      file that holds it, read at each connection [default: none]
    data_dir           directory of the buffer [default: tidewatch-agent-data]
    log                filter of the log [default: info]
    exit_when_done     stop when there is nothing more to do [default: false]
    clock              trust in the clock: auto, none, rtc, ntp or gnss [default: auto]
    [attributes]       what is said of every device, as site = \"plant-1\" [default: nothing]
    [buffer]           size of the buffer (bytes), how often it is written (ms, events)
    [uplink]           batches (events, bytes), acknowledgements, reconnecting, keep-alive (ms, s)
    [tls]              certificates, key and names for mqtts://
    [[source]]         what is read: host, agent, stdin, file, socket, exec, sysfs, mqtt, tail
    [[command]]        programs that the server may have run [default: none]
    [[rule]]           what it looks for without the server: threshold, rate, stuck, silence, anomaly
                       [default: none]";

const FILES: &str = "\
Files:
  agent.toml            the configuration, wherever --config says; there is no default place
  DATA_DIR/buffer.redb  what the server has not acknowledged yet; of damaged ones two are kept beside
                        it, as buffer.redb.damaged-TIME-LIFE
  DATA_DIR/incarnation  number of the last start, for when the buffer is lost
  DATA_DIR/reserve      1 MiB that is given up when the disk is full
  DATA_DIR/status.sock  socket at which a running agent answers `status`
  One agent, one DATA_DIR: a second one on it does not start.";

const ENVIRONMENT: &str = "\
Environment:
  TIDEWATCH_AGENT_CONFIG          the configuration file, as --config
  TIDEWATCH_AGENT_KEY             any key of the file, as TIDEWATCH_AGENT_SERVER=mqtt://host:1883
  TIDEWATCH_AGENT_SECTION__KEY    one of a section, as TIDEWATCH_AGENT_BUFFER__BYTES_MAX=100000000
                                  (bytes)
  TIDEWATCH_AGENT_PASSWORD        so the password stands in no file and no list of processes
  NOTIFY_SOCKET, WATCHDOG_USEC    set by systemd: it is told ready, alive and stopping
  Programs that a source or a command starts do not see variables that begin with TIDEWATCH_AGENT_.";

const SIGNALS: &str = "\
Signals:
  SIGTERM, SIGINT    stop in order: store what waits, send for at most uplink.stop_grace_ms (5000 ms)
  SIGKILL            loses nothing that is on disk; what stdin and sockets had read in the last
                     buffer.commit_interval_ms (2000 ms) is, and is declared";

const EXIT_CODES: &str = "\
Exit codes:
  0    stopped in order, or done
  1    failed while running; with --exit-when-done also: a source could not be read; status: no
       agent answers
  2    options or configuration are wrong; standard error says which and what to do";

const EXAMPLES: &str = "\
Examples:
  Check a configuration, and run:
    tidewatch-agent check --config agent.toml
    tidewatch-agent --config agent.toml
  Replay a file, and end when the server has all of it:
    tidewatch-agent --config replay.toml --exit-when-done
  Another server and a buffer of 1 GB, for this run only:
    tidewatch-agent --config agent.toml --server mqtts://cloud.example:8883 \\
      --set buffer.bytes_max=1000000000
  How is the one that runs:
    tidewatch-agent status --data-dir /var/lib/tidewatch-agent";

/// What follows the options of the program as a whole, and of `run`.
pub fn after() -> String {
    [
        CONFIGURATION,
        FILES,
        ENVIRONMENT,
        SIGNALS,
        EXIT_CODES,
        EXAMPLES,
    ]
    .join("\n\n")
}

pub const CHECK: &str = "\
Description:
  Reads the configuration as a start would, and looks whether the programs of commands are there,
  certificates, key and password file can be used, and files to replay have the columns that are
  named. It connects to nobody, writes nothing and does not open the buffer: it may be run beside a
  running agent.";

pub const CHECK_AFTER: &str = "\
Files:
  The file of --config, and the files it names.

Environment:
  As of a run: TIDEWATCH_AGENT_CONFIG, TIDEWATCH_AGENT_KEY, TIDEWATCH_AGENT_SECTION__KEY.

Signals:
  None are handled; it ends by itself.

Exit codes:
  0    the configuration can be used
  2    it cannot; standard error names the key and what to do

Examples:
    tidewatch-agent check --config /etc/tidewatch/agent.toml
    tidewatch-agent check --config agent.toml --set uplink.batch_events_max=500";

pub const STATUS: &str = "\
Description:
  Asks the agent that runs on the data directory for its connection, backlog (events, bytes, age of
  the oldest), losses, refusals, clock offset, bytes written to disk today, memory and CPU time. It
  changes nothing.";

pub const STATUS_AFTER: &str = "\
Files:
  DATA_DIR/status.sock    the socket at which the agent answers; who may write to it may ask

Environment:
  TIDEWATCH_AGENT_CONFIG, TIDEWATCH_AGENT_DATA_DIR: where the agent's data directory is, if neither
  --config nor --data-dir says so.

Signals:
  None are handled; it ends by itself.

Exit codes:
  0    an agent has answered
  1    none answers: none runs there, or it hangs
  2    options or configuration are wrong

Examples:
    tidewatch-agent status --data-dir /var/lib/tidewatch-agent
    tidewatch-agent status --config agent.toml --json";
