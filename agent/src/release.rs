//! `berth-agent release`: lets go of every Service, so that nothing hangs in Terminating once no agent runs any more
//! (point 8). It takes away exactly what the agent put there, and can be repeated.

use std::io::Write;

use k8s_openapi::{api::core::v1::Service, jiff::Timestamp};
use kube::{Api, api::ListParams};

use crate::{
    app::{claims, kube_client},
    apply::{WriteError, write},
    claims::{Claims, Standing},
    index::Entry,
    project::SeenService,
    settings::AgentSettings,
    status::{View, plan},
};

/// Services in one page of the list.
const PAGE_SIZE: u32 = 500;
/// A Service needs two writes; each conflict costs one more.
const MAX_WRITES: usize = 8;

/// Releases all Services. False: some could not be.
pub async fn run(settings: &AgentSettings, out: &mut impl Write) -> anyhow::Result<bool> {
    let client = kube_client(settings.kubeconfig.as_deref()).await?;
    let claims = claims(settings);
    let services: Api<Service> = Api::all(client.clone());
    let mut params = ListParams::default().limit(PAGE_SIZE);
    let (mut released, mut failed) = (0, 0);
    loop {
        let page = services.list(&params).await?;
        for service in page.items {
            let name = service.metadata.name.clone().unwrap_or_default();
            let namespace = service.metadata.namespace.clone().unwrap_or_default();
            match release(&client, &claims, service).await {
                Ok(false) => {}
                Ok(true) => {
                    released += 1;
                    writeln!(out, "released {namespace}/{name}")?;
                }
                Err(error) => {
                    failed += 1;
                    let error = anyhow::Error::from(error);
                    writeln!(out, "cannot release {namespace}/{name}: {error:#}")?;
                }
            }
        }
        params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if params.continue_token.is_none() {
            break;
        }
    }
    writeln!(out, "{released} Services released, {failed} failed")?;
    Ok(failed == 0)
}

/// False: there was nothing to do.
async fn release(
    client: &kube::Client,
    claims: &Claims,
    service: Service,
) -> Result<bool, WriteError> {
    let mut current = service;
    for round in 0..MAX_WRITES {
        let Some((key, seen)) = SeenService::project(current) else {
            return Ok(false);
        };
        let entry = Entry {
            seen,
            standing: Standing::Leaving,
            rebound: false,
        };
        let view = View {
            claims,
            entry: &entry,
            problem: None,
            note: None,
            answer: None,
            released: true,
        };
        let Some(plan) = plan(&view, Timestamp::now()) else {
            return Ok(round > 0);
        };
        current = match write(client, &key, &plan).await {
            Ok(after) => after,
            Err(WriteError::Gone) => return Ok(true),
            Err(WriteError::Conflict) => {
                let api: Api<Service> = Api::namespaced(client.clone(), &key.namespace);
                match api.get_opt(&key.name).await.map_err(WriteError::Api)? {
                    Some(newer) => newer,
                    None => return Ok(true),
                }
            }
            Err(error) => return Err(error),
        };
    }
    Err(WriteError::Conflict)
}
