export { toConnectionError } from "./sql/sqlState.ts"
