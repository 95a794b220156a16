//! Every rule of the forwarder that one router, or one beside another, can show.

mod bed;
mod explain;
mod groups;
mod handover;
mod ingress;
mod policing;
mod properties;
mod queues;
mod recall;
mod rerouting;
mod sharing;
