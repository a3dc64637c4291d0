export * as ChatMessage from "./state/ChatMessage.ts"
export * as Correlation from "./operations/Correlation.ts"
export * as Health from "./operations/Health.ts"
export * as Redaction from "./operations/Redaction.ts"
