#!/bin/sh
# Subscribes the app to the blobs of `inbox`. azd runs this after the code is deployed and passes the outputs
# of main.bicep as variables. Safe to run again.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
attempts=6
pause_seconds=20

command -v az >/dev/null 2>&1 || { echo "postdeploy: the Azure CLI (az) is needed; see docs/deploy.md" >&2; exit 1; }

# The first request after a deployment starts the host cold, which can outlast Event Grid's check of the webhook.
attempt=1
until az deployment group create \
    --subscription "$AZURE_SUBSCRIPTION_ID" \
    --resource-group "$AZURE_RESOURCE_GROUP" \
    --name eventgrid \
    --template-file "$here/../eventgrid.bicep" \
    --parameters functionAppName="$AZURE_FUNCTION_APP_NAME" \
                 storageAccountName="$AZURE_STORAGE_ACCOUNT_NAME" \
    --output none; do
    if [ "$attempt" -ge "$attempts" ]; then
        echo "postdeploy: the Event Grid subscription could not be made; blobs in inbox start nothing yet." >&2
        echo "postdeploy: run 'azd hooks run postdeploy' to try again." >&2
        exit 1
    fi
    echo "postdeploy: the app does not answer yet (attempt $attempt of $attempts), waiting $pause_seconds s"
    attempt=$((attempt + 1))
    sleep "$pause_seconds"
done
echo "postdeploy: new blobs in inbox now reach the app"
