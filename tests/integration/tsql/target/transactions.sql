SET TRANSACTION ISOLATION LEVEL READ COMMITTED; BEGIN TRANSACTION;
GO
COMMIT TRANSACTION;
GO
DECLARE @got int; EXEC @got = sp_getapplock @Resource = N'link-operator claims', @LockMode = 'Exclusive', @LockOwner = 'Transaction', @LockTimeout = 30000; SELECT @got;
GO
DECLARE @got int; EXEC @got = sp_getapplock @Resource = N'link-operator claims', @LockMode = 'Shared', @LockOwner = 'Transaction', @LockTimeout = 30000; SELECT @got;
GO
