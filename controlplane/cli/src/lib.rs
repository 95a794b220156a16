//! What the `caplane` command is made of, as a library, so that end-to-end
//! tests start the same fabric and issue the same certificates.
//!
//! | module | what it is for |
//! |---|---|
//! | [`pki`] | a development certification authority |
//! | [`api`] | the northbound API, typed |
//! | [`fabric`] | a controller and routers as child processes |

pub mod api;
pub mod fabric;
pub mod pki;
