export * as ChatMessage from "./state/ChatMessage.ts"
