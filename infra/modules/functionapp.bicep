// The function app on Flex Consumption, with every setting that the code reads (shared/config.py).
param name string
param planName string
param location string
param tags object
param identityId string
param identityClientId string
param applicationInsightsConnectionString string
param blobEndpoint string
param queueEndpoint string
param tableEndpoint string
param packageContainer string
param schedulerEndpoint string
param taskHubName string
param modelEndpoint string
param searchEndpoint string
param publicUrl string
param signingKeyAddress string
param outgoingNetworks string
param screening string
param contentSafetyEndpoint string
param entraAudience string
param entraTenants string
param trustedIngress string

@secure()
param bootstrapKeySha256 string

var instanceMemoryMegabytes = 2048
// The smallest ceiling that every region takes; each instance is one CPU.
var maximumInstances = 40
// host.json runs at most ten activities and ten orchestrators at a time on these threads.
var workerThreads = 10

resource plan 'Microsoft.Web/serverfarms@2024-04-01' = {
  name: planName
  location: location
  tags: tags
  kind: 'functionapp'
  sku: {
    name: 'FC1'
    tier: 'FlexConsumption'
  }
  properties: { reserved: true }
}

resource app 'Microsoft.Web/sites@2024-04-01' = {
  name: name
  location: location
  // azd finds the service of azure.yaml by this tag.
  tags: union(tags, { 'azd-service-name': 'api' })
  kind: 'functionapp,linux'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: { '${identityId}': {} }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    keyVaultReferenceIdentity: identityId
    siteConfig: {
      minTlsVersion: '1.2'
      http20Enabled: true
    }
    functionAppConfig: {
      runtime: {
        name: 'python'
        version: '3.12'
      }
      deployment: {
        storage: {
          type: 'blobContainer'
          value: '${blobEndpoint}${packageContainer}'
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: identityId
          }
        }
      }
      scaleAndConcurrency: {
        instanceMemoryMB: instanceMemoryMegabytes
        maximumInstanceCount: maximumInstances
        // Orchestrators, activities and entities share this group: an accepted job starts without a cold start.
        alwaysReady: [
          {
            name: 'durable'
            instanceCount: 1
          }
        ]
      }
    }
  }
}

// Deployments sign in with Entra: no publishing passwords.
resource passwords 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2024-04-01' = [
  for door in ['ftp', 'scm']: {
    parent: app
    name: door
    properties: { allow: false }
  }
]

// A resource of its own, because the public address is known only once the app is.
resource settings 'Microsoft.Web/sites/config@2024-04-01' = {
  parent: app
  name: 'appsettings'
  properties: {
    // The host
    AzureWebJobsStorage__blobServiceUri: blobEndpoint
    AzureWebJobsStorage__queueServiceUri: queueEndpoint
    AzureWebJobsStorage__tableServiceUri: tableEndpoint
    AzureWebJobsStorage__credential: 'managedidentity'
    AzureWebJobsStorage__clientId: identityClientId
    AzureWebJobsDisableHomepage: 'true'
    APPLICATIONINSIGHTS_CONNECTION_STRING: applicationInsightsConnectionString
    APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${identityClientId};Authorization=AAD'
    DURABLE_TASK_SCHEDULER_CONNECTION_STRING: 'Endpoint=${schedulerEndpoint};Authentication=ManagedIdentity;ClientID=${identityClientId}'
    TASKHUB_NAME: taskHubName
    // The Python worker: streaming responses need indexing at start up to Python 3.12.
    PYTHON_ENABLE_INIT_INDEXING: '1'
    PYTHON_THREADPOOL_THREAD_COUNT: string(workerThreads)
    // The app
    GroundworkStorage__blobServiceUri: blobEndpoint
    GroundworkStorage__queueServiceUri: queueEndpoint
    GroundworkStorage__tableServiceUri: tableEndpoint
    GroundworkStorage__credential: 'managedidentity'
    GroundworkStorage__clientId: identityClientId
    GROUNDWORK_IDENTITY_CLIENT_ID: identityClientId
    GROUNDWORK_PUBLIC_URL: empty(publicUrl) ? 'https://${app.properties.defaultHostName}' : publicUrl
    GROUNDWORK_SEARCH: searchEndpoint
    GROUNDWORK_MODELS: 'models.azure.toml'
    GROUNDWORK_MODEL_ENDPOINT: modelEndpoint
    GROUNDWORK_BOOTSTRAP_KEY_SHA256: bootstrapKeySha256
    GROUNDWORK_ENTRA_AUDIENCE: entraAudience
    GROUNDWORK_ENTRA_TENANTS: entraTenants
    GROUNDWORK_ENTRA_AUTHORITY: environment().authentication.loginEndpoint
    GROUNDWORK_TRUSTED_INGRESS: trustedIngress
    GROUNDWORK_FAILED_SIGN_INS: '60'
    GROUNDWORK_SIGNING_KEY: empty(signingKeyAddress) ? '' : '@Microsoft.KeyVault(SecretUri=${signingKeyAddress})'
    GROUNDWORK_OUTGOING_NETWORKS: outgoingNetworks
    GROUNDWORK_MAX_DOCUMENT_BYTES: '52428800'
    GROUNDWORK_MAX_UNFINISHED_DOCUMENTS: '500000'
    // One: a parser may use 1 GiB and the instance has 2.
    GROUNDWORK_PARSER_WORKERS: '1'
    GROUNDWORK_SHARDS_IN_FLIGHT: '4'
    GROUNDWORK_JOB_RETENTION_DAYS: '30'
    GROUNDWORK_HISTORY_RETENTION_DAYS: '7'
    GROUNDWORK_CACHE_BYTES: '33554432'
    GROUNDWORK_CACHE_SECONDS: '3600'
    GROUNDWORK_SCREENING: screening
    GROUNDWORK_CONTENT_SAFETY: contentSafetyEndpoint
    // Where the platform has granted a tenant no others: docs/usage-and-limits.md.
    GROUNDWORK_LIMITS: 'user_requests_per_minute=12000,user_tokens_per_minute=20000000,tenant_requests_per_minute=60000,tenant_tokens_per_minute=100000000,documents=10000000,bytes=10000000000000,running_jobs=20000,jobs_per_day=1000000,unfinished_documents=100000'
  }
}

output name string = app.name
output url string = 'https://${app.properties.defaultHostName}'
