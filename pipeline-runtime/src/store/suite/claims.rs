//! Claims on request ids.

use super::super::{Claim, Store};
use super::make::unique;
use std::sync::Arc;
use std::time::Duration;

const LEASE: Duration = Duration::from_secs(60);
const BODY: [u8; 32] = [1; 32];
const OTHER: [u8; 32] = [2; 32];

pub async fn claims(store: Arc<dyn Store>) {
    let request = unique("request");
    assert_eq!(store.claim(&request, BODY, LEASE).await.unwrap(), Claim::Ours);
    assert_eq!(store.claim(&request, BODY, LEASE).await.unwrap(), Claim::Pending);
    assert_eq!(store.claim(&request, OTHER, LEASE).await.unwrap(), Claim::OtherBody);
    store.settle_claim(&request, "the answer").await.unwrap();
    let answered = Claim::Answered { body_hash: BODY, answer: "the answer".into() };
    assert_eq!(store.claim(&request, BODY, LEASE).await.unwrap(), answered);
    assert_eq!(store.claim(&request, OTHER, LEASE).await.unwrap(), Claim::OtherBody);
    // an answer stands
    store.release_claim(&request).await.unwrap();
    store.settle_claim(&request, "another answer").await.unwrap();
    assert_eq!(store.claim(&request, BODY, LEASE).await.unwrap(), answered);

    // released after a definite failure: anybody's again, with any body
    let request = unique("request");
    assert_eq!(store.claim(&request, BODY, LEASE).await.unwrap(), Claim::Ours);
    store.release_claim(&request).await.unwrap();
    assert_eq!(store.claim(&request, OTHER, LEASE).await.unwrap(), Claim::Ours);

    // neither settled nor released: taken over, but not with another body, since the first may have been published
    let request = unique("request");
    assert_eq!(store.claim(&request, BODY, Duration::ZERO).await.unwrap(), Claim::Ours);
    assert_eq!(store.claim(&request, OTHER, LEASE).await.unwrap(), Claim::OtherBody);
    assert_eq!(store.claim(&request, BODY, LEASE).await.unwrap(), Claim::Ours);
    assert_eq!(store.claim(&request, BODY, LEASE).await.unwrap(), Claim::Pending);

    // a definite failure of the one that took it over says nothing about the first
    store.release_claim(&request).await.unwrap();
    assert_eq!(store.claim(&request, OTHER, LEASE).await.unwrap(), Claim::OtherBody);
    assert_eq!(store.claim(&request, BODY, LEASE).await.unwrap(), Claim::Ours);

    // left after an unknown outcome: at once anybody's, but with the same body
    let request = unique("request");
    assert_eq!(store.claim(&request, BODY, LEASE).await.unwrap(), Claim::Ours);
    store.leave_claim(&request).await.unwrap();
    assert_eq!(store.claim(&request, OTHER, LEASE).await.unwrap(), Claim::OtherBody);
    assert_eq!(store.claim(&request, BODY, LEASE).await.unwrap(), Claim::Ours);

    // of many at once one has it
    let request = unique("request");
    let claims = (0..20).map(|_| {
        let (store, request) = (store.clone(), request.clone());
        tokio::spawn(async move { store.claim(&request, BODY, LEASE).await.unwrap() })
    });
    let mut ours = 0;
    for claim in claims.collect::<Vec<_>>() {
        ours += usize::from(claim.await.unwrap() == Claim::Ours);
    }
    assert_eq!(ours, 1);
}
