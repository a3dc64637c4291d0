/**
 * What undoes the compression of a body.
 */
import * as Effect from "effect/Effect"
import type { DecoderOf } from "./undiciExchange.ts"

/** What is asked for: both are undone by Node itself, and every service that compresses has one of them. */
export const accepted = "gzip, br"

/** Statuses that cannot have a body. */
const bodiless: ReadonlySet<number> = new Set([204, 205, 304])

/** Bytes are given on as they come, so that an event of a stream does not wait for the next one. */
export const make: Effect.Effect<DecoderOf> = Effect.map(
  Effect.promise(() => import("node:zlib")),
  ({ constants, createBrotliDecompress, createGunzip }) =>
    (headers, status) => {
      const coding = headers["content-encoding"]
      if (typeof coding !== "string" || bodiless.has(status)) return undefined
      switch (coding.trim().toLowerCase()) {
        case "gzip":
        case "x-gzip":
          return createGunzip({ flush: constants.Z_SYNC_FLUSH })
        case "br":
          return createBrotliDecompress({ flush: constants.BROTLI_OPERATION_FLUSH })
        default:
          return undefined
      }
    }
)
