//! Certificates and keys of a cluster's own parts: its CA, the API server, the key of service account tokens. Pure but for
//! randomness. Berth's certificates are not made here: `berth-hub ca` and `berth-hub cert` make them.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};

use crate::error::{Context, Result};

/// A certificate and its key, both PEM.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// A cluster's CA.
#[derive(Debug)]
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// A new one.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let failed = "cannot make a CA";
        let mut params = CertificateParams::default();
        params.distinguished_name = named(name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate().context(failed)?;
        let issuer = CertifiedIssuer::self_signed(params, key).context(failed)?;
        Ok(Self { issuer })
    }

    /// The CA itself.
    pub(crate) fn pair(&self) -> Pair {
        Pair {
            certificate: self.issuer.pem(),
            key: self.issuer.key().serialize_pem(),
        }
    }

    /// A server's certificate for these names and addresses.
    pub(crate) fn server(&self, name: &str, names: Vec<String>) -> Result<Pair> {
        let mut params = CertificateParams::new(names).context("cannot use a server's name")?;
        params.distinguished_name = named(name, None);
        self.sign(params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client's certificate for a user in a group.
    pub(crate) fn client(&self, user: &str, group: &str) -> Result<Pair> {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(user, Some(group));
        self.sign(params, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Result<Pair> {
        let failed = "cannot make a certificate";
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().context(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).context(failed)?;
        Ok(Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// The private and the public key for service account tokens, PEM.
pub(crate) fn signing_key() -> Result<(String, String)> {
    let key = KeyPair::generate().context("cannot make a key")?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

fn named(common: &str, organisation: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    if let Some(organisation) = organisation {
        name.push(DnType::OrganizationName, organisation);
    }
    name
}
