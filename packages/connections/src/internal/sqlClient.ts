export { isPersistent } from "./sql/client.ts"
