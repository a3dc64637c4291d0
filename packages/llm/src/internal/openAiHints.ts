/**
 * What the two formats of OpenAI have in common: hints for the cache of prompts, marks of what is worth caching, names of
 * files, and what is to be left out where a model refuses it.
 */
import type { LlmError } from "../LlmError.ts"
import type { LlmRequest, PromptCache } from "../LlmRequest.ts"
import type { Json } from "./wire.ts"

/** Whether explicit ends of what is worth caching are known to the model: GPT-5.6 and later. */
const marksCache = (model: string): boolean => {
  const version = /^(?:.*\/|ft:)?gpt-(\d+)(?:\.(\d+))?(?!\d)/i.exec(model)
  if (version === null) return false
  const major = Number(version[1])
  // Azure calls GPT-3.5 `gpt-35`.
  return major !== 35 && (major > 5 || (major === 5 && Number(version[2] ?? 0) >= 6))
}

/** The indexes of the messages after which a beginning is worth keeping, if the model can be told. */
export const marksOf = (request: LlmRequest, model: string): ReadonlySet<number> =>
  new Set(marksCache(model) ? request.promptCache?.breakpoints : [])

const breakpoint = { prompt_cache_breakpoint: { mode: "explicit" } }

/** The parts of a message, the last of them marked. */
export const marked = (parts: ReadonlyArray<Json>, mark: boolean): ReadonlyArray<Json> =>
  mark ? parts.map((part, index) => (index === parts.length - 1 ? { ...part, ...breakpoint } : part)) : parts

/** The fields of a request for the cache of prompts. */
export const cacheFields = (cache: PromptCache | undefined): Json => ({
  ...(cache?.key === undefined ? {} : { prompt_cache_key: cache.key }),
  ...(cache?.ttl === "long" ? { prompt_cache_retention: "24h" } : {})
})

const withoutRetention = (request: LlmRequest): LlmRequest => {
  if (request.promptCache?.ttl !== "long") return request
  const { ttl: _, ...rest } = request.promptCache
  return { ...request, promptCache: rest }
}

/**
 * The wish for a long life in the cache is a hint, which not every model takes: one that refuses it is asked without, and
 * remembered.
 */
export const makeRetention = () => {
  const refused = new Set<string>()
  return {
    /** The request as the model takes it. */
    fit: (request: LlmRequest, model: string): LlmRequest => (refused.has(model) ? withoutRetention(request) : request),
    /** The request without the wish, if that is what was refused. */
    amend: (error: LlmError, request: LlmRequest, model: string): LlmRequest | undefined => {
      if (error.reason !== "InvalidRequest" || request.promptCache?.ttl !== "long") return undefined
      if (!/prompt_cache_retention/.test(error.providerMessage ?? "")) return undefined
      refused.add(model)
      return withoutRetention(request)
    }
  }
}

// The name of a file that the server has already, in the place of a URL.
const fileId = /^(?:file|assistant)-[\w-]+$/

/** Whether what stands in the place of a URL is the name of a file that the server has already. */
export const isFileId = (url: string): boolean => fileId.test(url)

/** The name of a file that has none: a document is told by the end of its name. */
export const fileNameOf = (name: string | undefined, mediaType: string): string =>
  name ?? (/^application\/pdf\b/i.test(mediaType) ? "file.pdf" : "file")
