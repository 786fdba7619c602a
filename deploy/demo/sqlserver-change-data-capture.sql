IF SCHEMA_ID('cdc') IS NULL EXEC sys.sp_cdc_enable_db
GO
IF OBJECT_ID('cdc.dbo_customers_CT') IS NULL EXEC sys.sp_cdc_enable_table @source_schema = N'dbo', @source_name = N'customers', @role_name = NULL
GO
IF OBJECT_ID('cdc.dbo_orders_CT') IS NULL EXEC sys.sp_cdc_enable_table @source_schema = N'dbo', @source_name = N'orders', @role_name = NULL
GO
IF OBJECT_ID('cdc.dbo_every_type_CT') IS NULL EXEC sys.sp_cdc_enable_table @source_schema = N'dbo', @source_name = N'every_type', @role_name = NULL
GO
