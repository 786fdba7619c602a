//! Several tables move together or not at all.

use link_operator::target::{Stride, Together};

use super::*;

fn part<'a>(link: &'a Link, table: &'a TargetTable, from: u64, steps: Option<Steps<'a>>) -> Together<'a> {
    Together { table, schema: &link.schema, incarnation: FIRST, from, steps }
}

fn stride(to: u64) -> Stride<'static> {
    Stride { link_id: "shop.shop", to, as_of: None, plan_revision: 3 }
}

#[tokio::test]
async fn tables_move_together_or_not_at_all() {
    let Some(link) = Link::with("tables together", &[(1, Some("a"), None)]).await else { return };
    let second = TargetTable { source: TableName::new("public", "other"), name: TableName::new("dw", "other"), ..link.table.clone() };
    link.target.claim(&second, &link.schema).await.unwrap();
    link.target.begin_snapshot(&second, &link.schema, FIRST).await.unwrap();
    link.target.finish_snapshot(&second, &link.schema, at(10, 10)).await.unwrap();
    let row = |id: i32, name: &'static str| Some(steps(vec![Step::Merge(link.net(&[], &[(id, Some(name), None)]))]));

    let parts = vec![part(&link, &second, 10, row(7, "x")), part(&link, &link.table, 10, row(2, "b"))];
    assert_eq!(link.target.apply_together(stride(12), parts).await.unwrap(), [1, 1]);
    assert_eq!(link.rows().await, ["1,a,-", "2,b,-"]);
    // One is not where it is thought: none moves.
    let parts = vec![part(&link, &second, 12, row(8, "y")), part(&link, &link.table, 11, row(3, "c"))];
    let apart = link.target.apply_together(stride(13), parts).await.unwrap_err();
    assert_eq!((reason(&apart.error), apart.table), ("ProgressMoved", None));
    assert_eq!(link.column("SELECT [id] FROM [dw].[other]").await, ["7"]);
    // What moved together is not moved alone under an older plan.
    let alone = link.apply(at(12, 13), vec![link.net(&[], &[(4, None, None)])]).await.unwrap_err();
    assert_eq!(reason(&alone), "ProgressMoved");
    let progress = link.target.link_progress("shop.shop").await.unwrap();
    assert!(progress.len() == 2 && progress.values().all(|progress| progress.record == 12 && progress.grouped), "{progress:?}");
    // A table that fails is named; the other stays with it.
    let broken = Some(stream::iter([Err(Error::InputFailed("torn".to_owned()))]).boxed());
    let parts = vec![part(&link, &link.table, 12, row(3, "c")), part(&link, &second, 12, broken)];
    let apart = link.target.apply_together(stride(13), parts).await.unwrap_err();
    assert_eq!((reason(&apart.error), apart.table), ("InputFailed", Some(1)));
    assert_eq!(link.rows().await.len(), 2);
    // Whoever moves without it leaves it out of the group.
    link.target.apply_together(stride(13), vec![part(&link, &link.table, 12, None)]).await.unwrap();
    let progress = link.target.link_progress("shop.shop").await.unwrap();
    assert!(progress[&link.table.source].grouped && !progress[&second.source].grouped, "{progress:?}");
}
