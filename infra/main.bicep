// Everything that Groundwork needs in Azure, in one resource group. `azd provision` deploys this file;
// the Event Grid subscription follows in eventgrid.bicep, because it needs the code to be there.
targetScope = 'subscription'

@minLength(1)
@maxLength(40)
@description('Name of the azd environment; part of the resource group\'s name and the seed of every other name.')
param environmentName string

@minLength(1)
@description('Region of all resources. It must offer Flex Consumption, the Durable Task Scheduler and the models.')
@metadata({ azd: { type: 'location' } })
param location string

@description('Chat model, also the name of its deployment.')
param chatModelName string

@description('Version of the chat model. Pinned: prompts are evaluated against one version.')
param chatModelVersion string

@description('Embedding model, also the name of its deployment. Changing it means embedding every document again.')
param embeddingModelName string

@description('Version of the embedding model.')
param embeddingModelVersion string

@allowed(['GlobalStandard', 'DataZoneStandard', 'Standard'])
@description('Where prompts may be processed: anywhere, inside the data zone (EU or US), or in the region.')
param modelSku string

@description('Address that clients use, where it is not the app\'s own (a custom domain, a gateway).')
param publicUrl string

@description('Application ids of this API in Entra ID whose access tokens are taken, with commas between; empty for none.')
param entraAudience string

@description('Entra tenants that may sign in and the tenant here that each stands for: ID=NAME, with commas between.')
param entraTenants string

@allowed(['', 'app-service'])
@description('app-service, where App Service authentication is switched on in front of the app.')
param trustedIngress string

@secure()
@description('SHA-256, in hexadecimal, of the first administrator\'s API key; empty for none.')
param bootstrapKeySha256 string

@secure()
@description('What the secrets of webhooks are derived from, 32 characters or more; empty for no webhooks.')
param signingKey string

@description('Private networks that URLs of documents and webhooks may reach, as 10.1.0.0/16; empty for none.')
param outgoingNetworks string

@allowed(['refuse', 'report'])
@description('Whether questions and passages that look like attacks on the model are refused, or only reported.')
param screening string

var suffix = toLower(uniqueString(subscription().id, environmentName, location))
var taskHubName = 'groundwork'
var tags = {
  'azd-env-name': environmentName
  application: 'groundwork'
}

resource group 'Microsoft.Resources/resourceGroups@2024-03-01' = {
  name: 'rg-${environmentName}'
  location: location
  tags: tags
}

module identity 'modules/identity.bicep' = {
  scope: group
  name: 'identity'
  params: {
    name: 'id-${suffix}'
    location: location
    tags: tags
  }
}

module monitoring 'modules/monitoring.bicep' = {
  scope: group
  name: 'monitoring'
  params: {
    suffix: suffix
    location: location
    tags: tags
    principalId: identity.outputs.principalId
  }
}

module storage 'modules/storage.bicep' = {
  scope: group
  name: 'storage'
  params: {
    name: 'st${suffix}'
    location: location
    tags: tags
    principalId: identity.outputs.principalId
    workspaceId: monitoring.outputs.workspaceId
  }
}

module scheduler 'modules/scheduler.bicep' = {
  scope: group
  name: 'scheduler'
  params: {
    name: 'dts-${suffix}'
    taskHubName: taskHubName
    location: location
    tags: tags
    principalId: identity.outputs.principalId
  }
}

module models 'modules/models.bicep' = {
  scope: group
  name: 'models'
  params: {
    name: 'oai-${suffix}'
    location: location
    tags: tags
    principalId: identity.outputs.principalId
    workspaceId: monitoring.outputs.workspaceId
    sku: modelSku
    chatModelName: chatModelName
    chatModelVersion: chatModelVersion
    embeddingModelName: embeddingModelName
    embeddingModelVersion: embeddingModelVersion
  }
}

module safety 'modules/safety.bicep' = {
  scope: group
  name: 'safety'
  params: {
    name: 'safe-${suffix}'
    location: location
    tags: tags
    principalId: identity.outputs.principalId
    workspaceId: monitoring.outputs.workspaceId
  }
}

module search 'modules/search.bicep' = {
  scope: group
  name: 'search'
  params: {
    name: 'srch-${suffix}'
    location: location
    tags: tags
    principalId: identity.outputs.principalId
    workspaceId: monitoring.outputs.workspaceId
  }
}

module vault 'modules/vault.bicep' = {
  scope: group
  name: 'vault'
  params: {
    name: 'kv-${suffix}'
    location: location
    tags: tags
    principalId: identity.outputs.principalId
    signingKey: signingKey
  }
}

// Last: every role is assigned before the app starts for the first time.
module app 'modules/functionapp.bicep' = {
  scope: group
  name: 'functionapp'
  params: {
    name: 'func-${suffix}'
    planName: 'plan-${suffix}'
    location: location
    tags: tags
    identityId: identity.outputs.id
    identityClientId: identity.outputs.clientId
    applicationInsightsConnectionString: monitoring.outputs.connectionString
    blobEndpoint: storage.outputs.blobEndpoint
    queueEndpoint: storage.outputs.queueEndpoint
    tableEndpoint: storage.outputs.tableEndpoint
    packageContainer: storage.outputs.packageContainer
    schedulerEndpoint: scheduler.outputs.endpoint
    taskHubName: taskHubName
    modelEndpoint: models.outputs.endpoint
    searchEndpoint: search.outputs.endpoint
    publicUrl: publicUrl
    entraAudience: entraAudience
    entraTenants: entraTenants
    trustedIngress: trustedIngress
    bootstrapKeySha256: bootstrapKeySha256
    signingKeyAddress: empty(signingKey) ? '' : '${vault.outputs.uri}secrets/signing-key'
    outgoingNetworks: outgoingNetworks
    screening: screening
    contentSafetyEndpoint: safety.outputs.endpoint
  }
}

output AZURE_LOCATION string = location
output AZURE_RESOURCE_GROUP string = group.name
output AZURE_FUNCTION_APP_NAME string = app.outputs.name
output AZURE_STORAGE_ACCOUNT_NAME string = storage.outputs.name
output SERVICE_API_URI string = app.outputs.url
