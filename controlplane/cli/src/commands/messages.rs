//! `caplane send`, `caplane request` and `caplane listen`: the command as an agent.

use std::io::{Read, Write};
use std::time::Duration;

use bytes::Bytes;
use caplane_client::{
    CarriedBy, Carrier, Client, ClientConfig, ClientEvent, Delivery, Destination, FlowOptions,
    Label, Query,
};
use caplane_proto::v1::resolve::Target;
use serde_json::{Value, json};

use super::classes::target;
use crate::arguments::{
    BodyArguments, ListenArguments, RequestArguments, SendArguments, SpeakerArguments,
};
use crate::failure::{Exit, Failure};
use crate::output::{Output, clean};
use crate::settings::Settings;

/// How long `send` without receipt listens for a notice that says what went wrong.
const NOTICE_PATIENCE: Duration = Duration::from_millis(500);

pub(super) async fn send(
    settings: &Settings,
    arguments: &SendArguments,
) -> Result<Output, Failure> {
    let payload = body(&arguments.body)?;
    let bytes = payload.len();
    let client = attach(settings, &arguments.speaker).await?;
    let (destination, name) = destination(&client, &arguments.to, &arguments.body).await?;
    let carrier = if arguments.datagram {
        Carrier::Datagram
    } else {
        Carrier::Stream
    };
    let options = options(&arguments.body).carrier(carrier);
    let mut events = client.events();
    let flow = client.flow(destination, options);
    let (json, text) = if arguments.datagram || arguments.no_receipt {
        flow.send(payload).await?;
        let mut noticed = None;
        let wait = tokio::time::timeout(NOTICE_PATIENCE, async {
            while let Some(event) = events.next().await {
                if let ClientEvent::Notice {
                    code,
                    router,
                    flow: about,
                    ..
                } = event
                    && about == flow.id()
                {
                    return Some((code, router));
                }
            }
            None
        });
        if let Ok(Some((code, router))) = wait.await {
            noticed = Some(format!("{router} says {code}"));
        }
        client.close().await;
        if let Some(notice) = noticed {
            return Err(Failure::new(
                Exit::Undelivered,
                format!("not delivered to {name}: {notice}"),
            ));
        }
        (
            json!({ "receipt": null }),
            format!("sent {bytes} bytes to {name}; no receipt asked for\n"),
        )
    } else {
        let receipt = flow.send_receipted(payload).await?.await?;
        client.close().await;
        let micros = receipt.round_trip.as_micros();
        let json = json!({ "receipt": {
            "from": receipt.from.to_string(), "attempts": receipt.attempts, "round_trip_us": micros as u64,
        }});
        let text = format!(
            "delivered {bytes} bytes to {name}: receipt from {} after {micros} us\n",
            receipt.from
        );
        (json, text)
    };
    let mut json = json;
    json["destination"] = Value::from(destination.to_string());
    json["name"] = Value::from(name);
    json["bytes"] = Value::from(bytes);
    Ok(Output::new("caplane.sent/1", json, text))
}

pub(super) async fn request(
    settings: &Settings,
    arguments: &RequestArguments,
) -> Result<Output, Failure> {
    let payload = body(&arguments.body)?;
    let client = attach(settings, &arguments.speaker).await?;
    let (destination, name) = destination(&client, &arguments.to, &arguments.body).await?;
    let flow = client.flow(destination, options(&arguments.body));
    let begun = std::time::Instant::now();
    let reply = flow.request(payload).await?;
    let micros = begun.elapsed().as_micros() as u64;
    let source = reply.source().to_string();
    let payload = reply.into_payload();
    drop(flow);
    client.close().await;
    let text = match std::str::from_utf8(&payload) {
        Ok(text) => format!("{text}\n"),
        Err(_) => format!("{} bytes that are no text; use --json\n", payload.len()),
    };
    let mut json = json!({
        "destination": destination.to_string(), "name": name, "from": source,
        "round_trip_us": micros, "bytes": payload.len(),
    });
    add_body(&mut json, &payload);
    Ok(Output::new("caplane.reply/1", json, text))
}

pub(super) async fn listen(
    settings: &Settings,
    arguments: &ListenArguments,
    as_json: bool,
) -> Result<(), Failure> {
    let client = attach(settings, &arguments.speaker).await?;
    let address = client
        .address()
        .map_or_else(|| "?".to_owned(), |address| address.to_string());
    eprintln!("attached as {address}; Ctrl-C ends");
    let mut left = arguments.count.unwrap_or(u64::MAX);
    while left > 0 {
        let delivery = tokio::select! {
            delivery = client.recv() => delivery,
            _ = tokio::signal::ctrl_c() => break,
        };
        let delivery =
            delivery.map_err(|reason| Failure::new(Exit::Unreachable, reason.to_string()))?;
        left -= 1;
        if !print_delivery(&delivery, as_json)? {
            break;
        }
        let answer = match (&arguments.reply, arguments.echo) {
            (Some(text), _) => Some(Bytes::from(text.clone())),
            (None, true) => Some(delivery.payload().clone()),
            (None, false) => None,
        };
        if let Some(answer) = answer {
            // Not awaited: the asker may not have wanted an answer, and the next message is here.
            delivery.reply(answer).await?;
        }
    }
    client.close().await;
    Ok(())
}

/// One line a message. False when nobody reads any more.
fn print_delivery(delivery: &Delivery, as_json: bool) -> Result<bool, Failure> {
    let payload = delivery.payload();
    let line = if as_json {
        let mut json = json!({
            "from": delivery.source().to_string(), "requested": delivery.requested().to_string(),
            "flow": format!("{:016x}", delivery.flow()), "sequence": delivery.sequence(),
            "carried_by": carried_by(delivery.carried_by()), "bytes": payload.len(),
        });
        add_body(&mut json, payload);
        Output::new("caplane.message/1", json, "").json.to_string()
    } else {
        let text = String::from_utf8_lossy(&payload[..payload.len().min(200)]);
        let more = if payload.len() > 200 { "…" } else { "" };
        format!(
            "{} -> {} {:016x}/{} {} B: {}{more}",
            delivery.source(),
            delivery.requested(),
            delivery.flow(),
            delivery.sequence(),
            payload.len(),
            clean(&text),
        )
    };
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn carried_by(carrier: CarriedBy) -> &'static str {
    match carrier {
        CarriedBy::Lane => "lane",
        CarriedBy::Bulk => "bulk",
        CarriedBy::Datagram => "datagram",
    }
}

/// Text as it is; other bytes in hexadecimal.
fn add_body(json: &mut Value, payload: &[u8]) {
    match std::str::from_utf8(payload) {
        Ok(text) => json["body"] = Value::from(text),
        Err(_) => {
            let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
            json["body_hex"] = Value::from(hex);
        }
    }
}

async fn attach(settings: &Settings, speaker: &SpeakerArguments) -> Result<Client, Failure> {
    let credentials = settings.agent_credentials(&speaker.agent)?;
    let mut config = ClientConfig::new(settings.routers(&speaker.routers)?, credentials);
    if let Some(instance) = &speaker.instance {
        config = config.instance_name(instance);
    }
    config.software = concat!("caplane/", env!("CARGO_PKG_VERSION")).to_owned();
    Ok(Client::attach(config).await?)
}

fn options(body: &BodyArguments) -> FlowOptions {
    let timeout = Duration::from_secs(body.timeout);
    FlowOptions::default()
        .priority(body.priority)
        .receipt_timeout(timeout)
        .request_timeout(timeout)
}

/// The label to send to and its name. A label is taken as it is; anything else is resolved once.
async fn destination(
    client: &Client,
    to: &str,
    body: &BodyArguments,
) -> Result<(Destination, String), Failure> {
    if let Ok(label) = to.parse::<Label>() {
        let destination = Destination::checked(label, body.tenant).ok_or_else(|| {
            let text = format!("{label} is no destination; give a class, agent or group label");
            Failure::new(Exit::Usage, text)
        })?;
        return Ok((destination, label.to_string()));
    }
    let query = match target(to) {
        Target::AgentId(id) => Query::Agent(id),
        Target::Path(path) => Query::Path(path),
        Target::Text(text) => Query::Text(text),
    };
    let candidates = client.resolve(query).await?;
    let best = candidates.first().ok_or_else(|| {
        let text = format!("nothing matches {to:?}; `caplane class find TEXT` shows what there is");
        Failure::new(Exit::NotFound, text)
    })?;
    let destination = Destination::try_from(best).map_err(|label| {
        Failure::new(
            Exit::Failed,
            format!("the router resolved {to:?} to {label}, which is no destination"),
        )
    })?;
    Ok((destination, clean(&best.name)))
}

fn body(arguments: &BodyArguments) -> Result<Bytes, Failure> {
    let unreadable = |what: &str, error: std::io::Error| {
        Failure::new(
            Exit::Usage,
            format!("cannot read the message from {what}: {error}"),
        )
    };
    match arguments.body.as_str() {
        "-" => {
            let mut bytes = Vec::new();
            let read = std::io::stdin().lock().read_to_end(&mut bytes);
            read.map_err(|error| unreadable("standard input", error))?;
            Ok(bytes.into())
        }
        text => match text.strip_prefix('@') {
            Some(path) => {
                let bytes = std::fs::read(path).map_err(|error| unreadable(path, error))?;
                Ok(bytes.into())
            }
            None => Ok(Bytes::copy_from_slice(text.as_bytes())),
        },
    }
}
