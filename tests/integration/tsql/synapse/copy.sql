COPY INTO #link_upserts0 ([c0] 1, [c1] 2, [c2] 3, [c3] 4) FROM 'https://zone.dfs.core.windows.net/c/it''s/1.parquet', 'https://zone.dfs.core.windows.net/c/2.parquet' WITH (FILE_TYPE = 'PARQUET', CREDENTIAL = (IDENTITY = 'Managed Identity'));
GO
COPY INTO #link_upserts0 ([c0] 1, [c1] 2, [c2] 3, [c3] 4) FROM 'https://zone.blob.core.windows.net/c/it''s/1.parquet', 'https://zone.blob.core.windows.net/c/2.parquet' WITH (FILE_TYPE = 'PARQUET', CREDENTIAL = (IDENTITY = 'Shared Access Signature', SECRET = 'sv=2023-11-03&sp=rl&sig=x'));
GO
