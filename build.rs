//! Compiles `proto/` with protox (no protoc on the machine), keeps the descriptor set for gRPC reflection, and writes down
//! the shape of each message, by which `proto/codec.rs` knows what decoding would allocate.

use std::{env, error::Error, fmt::Write as _, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(
        [
            "proto/berth/v1/agent.proto",
            "proto/berth/v1/enrollment.proto",
        ],
        ["proto"],
    )?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(
        out.join("berth.v1.descriptors.bin"),
        descriptors.encode_to_vec(),
    )?;

    let mut shapes = String::new();
    for message in descriptors.file.iter().flat_map(|f| &f.message_type) {
        if !message.nested_type.is_empty() {
            return Err(format!("{}: nested messages have no shape yet", message.name()).into());
        }
        let mut parts = String::new();
        for field in &message.field {
            let repeated = field.label().as_str_name() == "LABEL_REPEATED";
            let of = field.type_name().rsplit('.').next().unwrap_or_default();
            let part = match (field.r#type().as_str_name(), repeated) {
                ("TYPE_MESSAGE", true) => {
                    format!("Part::Many(size_of::<v1::{of}>(), v1::{of}::SHAPE)")
                }
                ("TYPE_MESSAGE", false) => format!("Part::One(v1::{of}::SHAPE)"),
                ("TYPE_STRING" | "TYPE_BYTES", true) => "Part::Texts".into(),
                (_, true) => "Part::Numbers".into(),
                (_, false) => continue,
            };
            write!(parts, "({}, {part}), ", field.number())?;
        }
        let name = message.name();
        writeln!(
            shapes,
            "impl Shaped for v1::{name} {{ const SHAPE: &'static Shape = &Shape(&[{parts}]); }}"
        )?;
    }
    fs::write(out.join("berth.v1.shapes.rs"), shapes)?;

    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::codec::Weighed")
        .compile_fds(descriptors)?;
    Ok(())
}
