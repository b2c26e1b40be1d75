//! Lines 12 to 18: HTTP/2 against its own rules, or by its rules and without measure.

use std::time::{Duration, Instant};

use anyhow::Result;
use prost::Message as _;

use crate::{
    attacker::{
        frames::{
            ACK, CONTINUATION, DATA, END_HEADERS, ENHANCE_YOUR_CALM, Frame, GOAWAY, HEADERS, PING,
            REFUSED_STREAM, RST_STREAM, SETTINGS, SYNC, WINDOW_UPDATE, call, frame, kept, literal,
            stream,
        },
        messages,
    },
    evidence::Evidence,
    ground::Attack,
};

/// `SETTINGS_INITIAL_WINDOW_SIZE`.
const INITIAL_WINDOW: u16 = 4;
/// How many streams a connection may have.
const STREAMS: usize = 8;
/// How many streams the hub resets on one connection before it ends it.
const RESETS: usize = 64;
/// How long a message may wait for the peer to read.
const STALL: Duration = Duration::from_secs(15);

fn assert_calmed(goaway: Option<Frame>, what: &str) {
    let goaway = goaway.unwrap_or_else(|| panic!("{what}: closed without GOAWAY"));
    assert_eq!(goaway.code(), ENHANCE_YOUR_CALM, "{what}: {goaway:?}");
}

fn open(number: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream(number), &call(SYNC))
}

#[tokio::test]
async fn hostile_12_rapid_reset_ends_with_goaway() -> Result<()> {
    let attack = Attack::begin("12", Evidence::goaway("enhance-your-calm")).await?;
    let http2 = attack.http2(&[]).await;
    let cancel = 8u32.to_be_bytes();
    let goaway = http2
        .flood(|n| [open(n), frame(RST_STREAM, 0, stream(n), &cancel)].concat())
        .await;
    assert_calmed(goaway, "rapid reset");
    attack.answered().await
}

#[tokio::test]
async fn hostile_13_resets_that_the_hub_is_made_to_send_end_with_goaway() -> Result<()> {
    let attack = Attack::begin("13", Evidence::goaway("enhance-your-calm")).await?;
    let http2 = attack.http2(&[]).await;
    // A window beyond all bounds: the stream is in error, and it is the hub that resets it.
    let beyond = 0x7fff_ffffu32.to_be_bytes();
    let goaway = http2
        .flood(|n| [open(n), frame(WINDOW_UPDATE, 0, stream(n), &beyond)].concat())
        .await;
    assert_calmed(goaway, "server-induced resets");
    attack.answered().await
}

#[tokio::test]
async fn hostile_14_a_flood_of_continuations_ends_with_goaway() -> Result<()> {
    let attack = Attack::begin("14", Evidence::goaway("enhance-your-calm")).await?;
    let mut http2 = attack.http2(&[]).await;
    http2.send(&frame(HEADERS, 0, stream(0), &call(SYNC))).await;
    let goaway = http2
        .flood(|n| frame(CONTINUATION, 0, stream(0), &literal("x", &n.to_string())))
        .await;
    assert_calmed(goaway, "CONTINUATION");
    attack.answered().await
}

#[tokio::test]
async fn hostile_15_headers_beyond_16_kib_are_refused_and_the_connection_goes_on() -> Result<()> {
    let attack = Attack::begin("15a", Evidence::reset("protocol-error")).await?;
    let mut http2 = attack.http2(&[]).await;
    let long = [call(SYNC), literal("x", &"a".repeat(12 * 1024))].concat();
    http2.send(&frame(HEADERS, 0, stream(0), &long)).await;
    let rest = literal("y", &"b".repeat(12 * 1024));
    http2
        .send(&frame(CONTINUATION, END_HEADERS, stream(0), &rest))
        .await;
    let refused = http2.until(|frame| frame.kind == RST_STREAM).await;
    assert!(refused.is_some(), "closed");
    http2.send(&frame(PING, 0, 0, b"are you?")).await;
    let pong = http2
        .until(|frame| frame.kind == PING && frame.flags == ACK)
        .await;
    assert!(pong.is_some(), "closed");
    attack.answered().await
}

#[tokio::test]
async fn hostile_15_a_header_bomb_ends_with_goaway() -> Result<()> {
    let attack = Attack::begin("15b", Evidence::goaway("enhance-your-calm")).await?;
    let mut http2 = attack.http2(&[]).await;
    // A header of 3 KiB that the table keeps, and then again for a byte each: 12 MiB.
    let mut bomb = call(SYNC);
    bomb.extend(kept("x", &"a".repeat(3 * 1024)));
    bomb.extend([0x80 | 62; 4 * 1024]);
    http2
        .send(&frame(HEADERS, END_HEADERS, stream(0), &bomb))
        .await;
    let goaway = http2.until(|frame| frame.kind == GOAWAY).await;
    assert_calmed(goaway, "header bomb");
    attack.answered().await
}

#[tokio::test]
async fn hostile_16_floods_of_ping_settings_and_empty_data_end_with_goaway() -> Result<()> {
    let attack = Attack::begin("16", Evidence::goaway("enhance-your-calm")).await?;
    let floods: [(&str, Vec<u8>); 3] = [
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("DATA", frame(DATA, 0, stream(0), &[])),
    ];
    for (what, again) in floods {
        let mut http2 = attack.http2(&[]).await;
        http2.send(&open(0)).await;
        assert_calmed(http2.flood(|_| again.clone()).await, what);
    }
    attack.answered().await
}

#[tokio::test]
async fn hostile_17_a_window_that_is_never_reopened_is_closed_after_15_seconds() -> Result<()> {
    let attack = Attack::begin("17", Evidence::ended("DeadlineExceeded", "stalled")).await?;
    // Until the hub knows the tenant.
    drop(attack.session(&[]).await?);
    let mut http2 = attack.http2(&[(INITIAL_WINDOW, 0)]).await;
    let hello = messages::hello_of(1, 1, "its-own");
    let hello = berth_wire::v1::AgentMessage {
        body: Some(berth_wire::v1::agent_message::Body::Hello(hello)),
    };
    let hello = messages::framed(&hello.encode_to_vec());
    let began = Instant::now();
    http2
        .send(&[open(0), frame(DATA, 0, stream(0), &hello)].concat())
        .await;
    let welcome = http2.until(|frame| frame.kind == DATA).await;
    assert!(welcome.is_none(), "through a closed window: {welcome:?}");
    let took = began.elapsed();
    // The keepalive would find nothing before 30 s.
    assert!(
        took >= STALL && took < STALL + Duration::from_secs(10),
        "{took:?}"
    );
    attack.answered().await
}

/// How many of so many streams are refused, and whether the connection goes on.
async fn refused_of(attack: &Attack, opened: u32) -> (usize, bool) {
    let mut http2 = attack.http2(&[]).await;
    let all: Vec<u8> = (0..opened).flat_map(open).collect();
    http2
        .send(&[all, frame(PING, 0, 0, b"are you?")].concat())
        .await;
    let mut refused = 0;
    while let Some(frame) = http2.next().await {
        match frame.kind {
            RST_STREAM if frame.code() == REFUSED_STREAM => refused += 1,
            PING if frame.flags == ACK => return (refused, true),
            GOAWAY => {
                assert_eq!(frame.code(), ENHANCE_YOUR_CALM, "{frame:?}");
                return (refused, false);
            }
            _ => {}
        }
    }
    panic!("closed without a word");
}

/// Whoever opens a few too many goes on with those that are left; whoever does not stop is told to go.
#[tokio::test]
async fn hostile_18_streams_beyond_eight_are_refused_and_a_thousand_end_with_goaway() -> Result<()>
{
    let attack = Attack::begin("18", Evidence::reset("refused-stream")).await?;
    assert_eq!(refused_of(&attack, 40).await, (40 - STREAMS, true));
    let (refused, goes_on) = refused_of(&attack, 1_000).await;
    assert!(
        !goes_on && refused <= RESETS,
        "{refused} refused, goes on: {goes_on}"
    );
    attack.answered().await
}
