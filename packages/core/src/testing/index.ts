export * as CacheSuite from "./CacheSuite.ts"
export * as ConversationMemorySuite from "./ConversationMemorySuite.ts"
export * as SessionStoreSuite from "./SessionStoreSuite.ts"
export * as Suite from "./Suite.ts"
