export * as Suite from "./Suite.ts"
