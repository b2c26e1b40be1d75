//! A container image from one static program, written without any container tool: a tar archive in the layout that
//! `docker save` writes and `ctr images import` reads. Knows archives and digests; must not know which programs there are.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// An image with one program in it, and nothing else.
#[derive(Debug, Clone, Copy)]
pub struct Image<'a> {
    /// Its full name: `lab.local/echo:1`.
    pub name: &'a str,
    /// The static program; it becomes `/<file name>` and the entry point.
    pub program: &'a Path,
    /// `uid:gid` it runs as.
    pub user: &'a str,
}

impl Image<'_> {
    /// Writes the archive. The same program gives the same bytes: no time and no owner of this machine gets in.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let archive = self.archive()?;
        let mut file = File::create(path)?;
        file.write_all(&archive)?;
        file.sync_all()
    }

    fn archive(&self) -> io::Result<Vec<u8>> {
        let program = self
            .program
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| io::Error::other(format!("{:?} has no plain name", self.program)))?;
        let layer = layer(program, &std::fs::read(self.program)?)?;
        let layer_digest = hex_digest(&layer);
        let config = serde_json::to_vec(&json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "User": self.user,
                "Entrypoint": [format!("/{program}")],
                "Env": ["PATH=/"],
                "WorkingDir": "/",
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
        }))?;
        let config_name = format!("{}.json", hex_digest(&config));
        let layer_name = format!("{layer_digest}/layer.tar");
        let manifest = serde_json::to_vec(&json!([{
            "Config": config_name,
            "RepoTags": [self.name],
            "Layers": [layer_name],
        }]))?;
        let mut archive = Builder::new(Vec::new());
        append(&mut archive, &layer_name, 0o644, &layer)?;
        append(&mut archive, &config_name, 0o644, &config)?;
        append(&mut archive, "manifest.json", 0o644, &manifest)?;
        archive.into_inner()
    }
}

/// The root file system: the program, and a `/tmp` that anyone may write, since the program runs as an ordinary user.
fn layer(program: &str, content: &[u8]) -> io::Result<Vec<u8>> {
    let mut layer = Builder::new(Vec::new());
    let mut tmp = header(0, 0o1777);
    tmp.set_entry_type(EntryType::Directory);
    layer.append_data(&mut tmp, "tmp/", io::empty())?;
    append(&mut layer, program, 0o755, content)?;
    layer.into_inner()
}

fn append(archive: &mut Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
    archive.append_data(&mut header(content.len() as u64, mode), path, content)
}

fn header(size: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// This machine's architecture in the words of image configurations.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::Read;

    fn entries(archive: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
        tar::Archive::new(archive)
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let name = entry.path().unwrap().display().to_string();
                let mode = entry.header().mode().unwrap();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                (name, (mode, content))
            })
            .collect()
    }

    fn archive() -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("echo");
        std::fs::write(&program, b"\x7fELF program").unwrap();
        let image = Image {
            name: "lab.local/echo:1",
            program: &program,
            user: "65532:65532",
        };
        let path = dir.path().join("echo.tar");
        image.write(&path).unwrap();
        std::fs::read(path).unwrap()
    }

    #[test]
    fn every_reference_of_the_manifest_is_in_the_archive_with_its_digest() {
        let archive = archive();
        let outer = entries(&archive);
        let manifest: serde_json::Value =
            serde_json::from_slice(&outer["manifest.json"].1).unwrap();
        assert_eq!(manifest[0]["RepoTags"], json!(["lab.local/echo:1"]));
        let config_name = manifest[0]["Config"].as_str().unwrap();
        let config_bytes = &outer[config_name].1;
        assert_eq!(config_name, format!("{}.json", hex_digest(config_bytes)));
        let config: serde_json::Value = serde_json::from_slice(config_bytes).unwrap();
        assert_eq!(config["config"]["User"], "65532:65532");
        assert_eq!(config["config"]["Entrypoint"], json!(["/echo"]));
        let layer = &outer[manifest[0]["Layers"][0].as_str().unwrap()].1;
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            format!("sha256:{}", hex_digest(layer))
        );
        let files = entries(layer);
        assert_eq!(files["echo"], (0o755, b"\x7fELF program".to_vec()));
        assert_eq!(files["tmp/"].0, 0o1777);
    }

    #[test]
    fn the_same_program_gives_the_same_bytes() {
        assert_eq!(archive(), archive());
    }
}
