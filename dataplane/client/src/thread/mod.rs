//! The transport thread.
use std::sync::Arc;

use crate::client::Shared;
use crate::config::ClientConfig;
use crate::error::AttachError;

pub(crate) async fn start(config: ClientConfig) -> Result<Arc<Shared>, AttachError> {
    config.check()?;
    Err(AttachError::Config("under construction".into()))
}
