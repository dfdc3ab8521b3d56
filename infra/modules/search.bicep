// Azure AI Search, entered with Entra tokens only, with the semantic ranker.
param name string
param location string
param tags object
param principalId string
param workspaceId string

var searchIndexDataContributor = '8ebe5a00-799e-43f5-93ac-243d3dce84a7'
// The app makes and changes its indexes itself, which no narrower built-in role allows.
var searchServiceContributor = '7ca78c08-252a-4471-8644-bb5ff32d4ba0'
var roles = [
  searchIndexDataContributor
  searchServiceContributor
]

resource service 'Microsoft.Search/searchServices@2025-05-01' = {
  name: name
  location: location
  tags: tags
  // The smallest tier with the semantic ranker.
  sku: { name: 'basic' }
  properties: {
    hostingMode: 'default'
    replicaCount: 1
    partitionCount: 1
    disableLocalAuth: true
    publicNetworkAccess: 'enabled'
    // Paid by use, after 1,000 free queries a month. The free plan stops there.
    semanticSearch: 'standard'
  }
}

resource indexes 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for role in roles: {
    name: guid(service.id, principalId, role)
    scope: service
    properties: {
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', role)
      principalId: principalId
      principalType: 'ServicePrincipal'
    }
  }
]

resource measures 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  name: 'to-workspace'
  scope: service
  properties: {
    workspaceId: workspaceId
    // No operation logs: they hold the text of every query.
    metrics: [
      {
        category: 'AllMetrics'
        enabled: true
      }
    ]
  }
}

output endpoint string = 'https://${service.name}.search.windows.net'
