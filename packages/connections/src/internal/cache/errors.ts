/** Errors of connections as errors of caches. */
import type { ConnectionError } from "@underlay/core/connection/Connection"
import * as Cache from "@underlay/core/state/Cache"

export const failureOf = (method: string, error: ConnectionError): Cache.CacheError =>
  new Cache.CacheError({
    reason:
      error.reason === "Timeout"
        ? "Timeout"
        : error.reason === "Unavailable" || error.reason === "Throttled" || error.reason === "Closed"
          ? "Unavailable"
          : "Rejected",
    method,
    description: error.description,
    cause: error
  })
