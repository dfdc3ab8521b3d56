# Subscribes the app to the blobs of `inbox`. azd runs this after the code is deployed and passes the outputs
# of main.bicep as variables. Safe to run again.
$ErrorActionPreference = 'Stop'

$attempts = 6
$pauseSeconds = 20

if (-not (Get-Command az -ErrorAction SilentlyContinue)) {
    Write-Error 'postdeploy: the Azure CLI (az) is needed; see docs/deploy.md'
}

# The first request after a deployment starts the host cold, which can outlast Event Grid's check of the webhook.
for ($attempt = 1; $attempt -le $attempts; $attempt++) {
    az deployment group create `
        --subscription $env:AZURE_SUBSCRIPTION_ID `
        --resource-group $env:AZURE_RESOURCE_GROUP `
        --name eventgrid `
        --template-file "$PSScriptRoot/../eventgrid.bicep" `
        --parameters functionAppName=$env:AZURE_FUNCTION_APP_NAME `
                     storageAccountName=$env:AZURE_STORAGE_ACCOUNT_NAME `
        --output none
    if ($LASTEXITCODE -eq 0) {
        Write-Output 'postdeploy: new blobs in inbox now reach the app'
        exit 0
    }
    if ($attempt -lt $attempts) {
        Write-Output "postdeploy: the app does not answer yet (attempt $attempt of $attempts), waiting $pauseSeconds s"
        Start-Sleep -Seconds $pauseSeconds
    }
}
Write-Error "postdeploy: the Event Grid subscription could not be made; blobs in inbox start nothing yet. Run 'azd hooks run postdeploy' to try again."
