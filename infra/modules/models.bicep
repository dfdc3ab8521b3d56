// Azure OpenAI with one chat and one embedding deployment. A deployment is named after its model, so that
// the catalogue (models.azure.toml) cannot name one model and reach another.
param name string
param location string
param tags object
param principalId string
param workspaceId string
param sku string
param chatModelName string
param chatModelVersion string
param embeddingModelName string
param embeddingModelVersion string

var cognitiveServicesOpenAIUser = '5e0bd9bd-7b93-4f28-af87-19fc36ad61bd'
// Thousands of tokens a minute, of the subscription's quota. Embeddings bound the speed of ingestion.
var chatCapacity = 50
var embeddingCapacity = 120
var deployments = [
  {
    model: chatModelName
    version: chatModelVersion
    capacity: chatCapacity
  }
  {
    model: embeddingModelName
    version: embeddingModelVersion
    capacity: embeddingCapacity
  }
]

resource account 'Microsoft.CognitiveServices/accounts@2025-06-01' = {
  name: name
  location: location
  tags: tags
  kind: 'OpenAI'
  sku: { name: 'S0' }
  properties: {
    // A subdomain of its own is what Entra tokens need.
    customSubDomainName: name
    disableLocalAuth: true
    publicNetworkAccess: 'Enabled'
  }
}

// One at a time: the account refuses two deployments being made at once.
@batchSize(1)
resource deployment 'Microsoft.CognitiveServices/accounts/deployments@2025-06-01' = [
  for item in deployments: {
    parent: account
    name: item.model
    sku: {
      name: sku
      capacity: item.capacity
    }
    properties: {
      model: {
        format: 'OpenAI'
        name: item.model
        version: item.version
      }
      raiPolicyName: 'Microsoft.DefaultV2'
      // The version changes under the app only when the alternative is an error.
      versionUpgradeOption: 'OnceCurrentVersionExpired'
    }
  }
]

resource infers 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(account.id, principalId, cognitiveServicesOpenAIUser)
  scope: account
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', cognitiveServicesOpenAIUser)
    principalId: principalId
    principalType: 'ServicePrincipal'
  }
}

resource audit 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  name: 'to-workspace'
  scope: account
  properties: {
    workspaceId: workspaceId
    logs: [
      {
        category: 'Audit'
        enabled: true
      }
    ]
    metrics: [
      {
        category: 'AllMetrics'
        enabled: true
      }
    ]
  }
}

output endpoint string = account.properties.endpoint
