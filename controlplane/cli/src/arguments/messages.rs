//! `caplane send`, `caplane request` and `caplane listen`: to speak as an agent.

use clap::Args;

/// Who speaks, and where it attaches.
#[derive(Debug, Args)]
pub struct SpeakerArguments {
    /// Agent to speak as: `agent-<NAME>.pem` of the state folder
    #[arg(long = "as", value_name = "NAME")]
    pub agent: String,
    /// Router to attach to, by name or "host:port"; repeat for more, tried in turn [default: the fabric's]
    #[arg(long = "router", value_name = "ROUTER")]
    pub routers: Vec<String>,
    /// Name of this instance; the same name gets the same label back [default: random]
    #[arg(long, value_name = "NAME")]
    pub instance: Option<String>,
}

/// What a message says.
#[derive(Debug, Args)]
pub struct BodyArguments {
    /// The message: a text, "@FILE" for a file's bytes, "-" for standard input
    #[arg(long, default_value = "-")]
    pub body: String,
    /// Priority, 0 to 7
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(0..=7))]
    pub priority: u8,
    /// Give up after this many seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub timeout: u64,
    /// Tenant number of the destination class, when a label is given; 0 = shared
    #[arg(long, default_value_t = 0)]
    pub tenant: u32,
}

/// `caplane send`
#[derive(Debug, Args)]
pub struct SendArguments {
    /// Who it is for: a need in words, a class path, a label, or an agent's URI
    pub to: String,
    #[command(flatten)]
    /// Who speaks.
    pub speaker: SpeakerArguments,
    #[command(flatten)]
    /// What it says.
    pub body: BodyArguments,
    /// One datagram: may be lost, no receipt
    #[arg(long)]
    pub datagram: bool,
    /// Do not ask for a receipt
    #[arg(long)]
    pub no_receipt: bool,
}

/// `caplane request`
#[derive(Debug, Args)]
pub struct RequestArguments {
    /// Who it is for: a need in words, a class path, a label, or an agent's URI
    pub to: String,
    #[command(flatten)]
    /// Who speaks.
    pub speaker: SpeakerArguments,
    #[command(flatten)]
    /// What it says.
    pub body: BodyArguments,
}

/// `caplane listen`
#[derive(Debug, Args)]
pub struct ListenArguments {
    #[command(flatten)]
    /// Who listens.
    pub speaker: SpeakerArguments,
    /// Answer each message with this text
    #[arg(long, value_name = "TEXT", conflicts_with = "echo")]
    pub reply: Option<String>,
    /// Answer each message with itself
    #[arg(long)]
    pub echo: bool,
    /// End after this many messages [default: until interrupted]
    #[arg(long)]
    pub count: Option<u64>,
}
