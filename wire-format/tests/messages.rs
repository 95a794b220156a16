//! What people read when something is wrong: the place, the cause and, where there is one, the remedy.

use caplane_wire::control::{self, ControlError};
use caplane_wire::extension::KnownExtensions;
use caplane_wire::notice::Notice;
use caplane_wire::preface::Preface;
use caplane_wire::{Header, Label, PeerName, TrafficClass, framing, message_len};

fn label(text: &str) -> String {
    text.parse::<Label>().unwrap_err().to_string()
}

#[test]
fn labels() {
    assert_eq!(
        label("7.12"),
        "not a label at byte 0: it must begin with \"class:\", \"agent:\", \"group:\" or \"router:\""
    );
    assert_eq!(
        label("class:7.1024"),
        "not a label at byte 8: a class level is at most 1023"
    );
    assert_eq!(
        label("agent:4711.0"),
        "not a label at byte 11: an instance is 1 to 63; leave it out to mean any"
    );
    assert_eq!(
        label("group:x"),
        "not a label at byte 6: only decimal digits and dots may stand here"
    );
}

#[test]
fn names() {
    let error = |text| PeerName::parse(text).unwrap_err().to_string();
    assert_eq!(
        error("http://a/b"),
        "not a peer's name at byte 0: it must begin with \"spiffe://\" or \"acps://\""
    );
    assert_eq!(
        error("spiffe://example.org"),
        "not a peer's name at byte 20: a path must follow the trust domain, \
         as in spiffe://example.org/agent/hotels"
    );
}

#[test]
fn bytes() {
    let mut header = [0; 48];
    let error = Header::new_checked(header).unwrap_err();
    assert_eq!(
        error.to_string(),
        "header byte 0: version 0 is not known, this side speaks 1"
    );
    header[0] = 0x19;
    let error = message_len(&header, 100).unwrap_err();
    assert_eq!(
        error.to_string(),
        "header byte 0: kind 9 is not defined, the kinds are 0 to 3"
    );
    header[0] = 0x10;
    header[39] = 100;
    let error = message_len(&header, 100).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a message of 148 bytes is past the limit of 100"
    );
    let error = framing::datagram(&header).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a message of 148 bytes was cut short after 48"
    );
    let view = Header::new_checked(&header).unwrap();
    let error = framing::check_class(&view, TrafficClass::NOTICE).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a message of class \"priority 0 drop\" came on a stream of class \"priority 7 drop\""
    );
    let error = Preface::parse(b"GET / HT").unwrap_err();
    assert_eq!(
        error.to_string(),
        "preface bytes 0 to 3 are \"GET \", not \"CPL1\""
    );
    let error = KnownExtensions::parse(&[0x85, 0, 0]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "extension at byte 0 of type 0x85 must be understood and is not known"
    );
    let error = Notice::parse(&[0; 56]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "notice byte 0: code 0 is not defined, the codes are 1 to 10"
    );
    assert_eq!(
        control::frame(&[0xFF, 0xFF, 0x7F]).unwrap_err(),
        ControlError::TooLarge { length: 2_097_151 }
    );
}
