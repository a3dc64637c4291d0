/** Adding up what several answers used. */
import type { Usage } from "../LlmResponse.ts"

const sum = (x: number | undefined, y: number | undefined): number | undefined =>
  x === undefined && y === undefined ? undefined : (x ?? 0) + (y ?? 0)

/** What both used; unknown stays what neither said. */
export const addUsage = (a: Usage, b: Usage): Usage => ({
  input: sum(a.input, b.input),
  output: sum(a.output, b.output),
  cachedInput: sum(a.cachedInput, b.cachedInput),
  cacheWrite: sum(a.cacheWrite, b.cacheWrite),
  reasoning: sum(a.reasoning, b.reasoning)
})
