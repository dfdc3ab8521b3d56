// Tells the app of each new blob in `inbox`. Deployed by infra/hooks/postdeploy after the code: Event Grid
// checks that the webhook answers, and the key of the webhook exists only once the host has loaded the
// blob extension.
targetScope = 'resourceGroup'

param functionAppName string
param storageAccountName string

@description('Name of the function that the blob trigger calls.')
param functionName string = 'blob_arrived'

var container = 'inbox'
var storageBlobDataContributor = 'ba92f5b4-2d11-453d-a403-e96b0029c9fe'
// Event Grid's own limits; what is not delivered within them is kept as a blob, not lost.
var deliveryAttempts = 30
var timeToLiveMinutes = 1440

resource app 'Microsoft.Web/sites@2024-04-01' existing = {
  name: functionAppName
}

resource account 'Microsoft.Storage/storageAccounts@2024-01-01' existing = {
  name: storageAccountName
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2024-01-01' existing = {
  parent: account
  name: 'default'
}

resource deadLetters 'Microsoft.Storage/storageAccounts/blobServices/containers@2024-01-01' existing = {
  parent: blobs
  name: 'event-dead-letters'
}

resource topic 'Microsoft.EventGrid/systemTopics@2025-02-15' = {
  name: 'evgt-${storageAccountName}'
  location: resourceGroup().location
  tags: resourceGroup().tags
  identity: { type: 'SystemAssigned' }
  properties: {
    source: account.id
    topicType: 'Microsoft.Storage.StorageAccounts'
  }
}

resource keepsDeadLetters 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(deadLetters.id, topic.id, storageBlobDataContributor)
  scope: deadLetters
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', storageBlobDataContributor)
    principalId: topic.identity.principalId
    principalType: 'ServicePrincipal'
  }
}

resource inboxToApp 'Microsoft.EventGrid/systemTopics/eventSubscriptions@2025-02-15' = {
  parent: topic
  name: 'inbox-to-app'
  dependsOn: [keepsDeadLetters]
  properties: {
    destination: {
      endpointType: 'WebHook'
      properties: {
        // The host's blob webhook takes its system key and no Entra token. The key goes from the app to
        // Event Grid inside this deployment and is no output of it.
        endpointUrl: 'https://${app.properties.defaultHostName}/runtime/webhooks/blobs?functionName=Host.Functions.${functionName}&code=${listKeys('${app.id}/host/default', '2024-04-01').systemKeys.blobs_extension}'
        maxEventsPerBatch: 1
      }
    }
    eventDeliverySchema: 'EventGridSchema'
    filter: {
      includedEventTypes: ['Microsoft.Storage.BlobCreated']
      subjectBeginsWith: '/blobServices/default/containers/${container}/blobs/'
    }
    retryPolicy: {
      maxDeliveryAttempts: deliveryAttempts
      eventTimeToLiveInMinutes: timeToLiveMinutes
    }
    deadLetterWithResourceIdentity: {
      identity: { type: 'SystemAssigned' }
      deadLetterDestination: {
        endpointType: 'StorageBlob'
        properties: {
          resourceId: account.id
          blobContainerName: deadLetters.name
        }
      }
    }
  }
}
