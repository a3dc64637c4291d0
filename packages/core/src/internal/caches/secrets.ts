/**
 * Codes, tickets and what is kept of them: random texts by the platform's cryptographic generator, and hashes.
 */
import * as Effect from "effect/Effect"
import * as Encoding from "effect/Encoding"
import * as Redacted from "effect/Redacted"

/** So many characters of an alphabet, each as likely as any other. */
export const randomText = (length: number, alphabet: ReadonlyArray<string>): Effect.Effect<string> =>
  Effect.sync(() => {
    // the largest multiple of the alphabet below 2^32: what is above would favour its first characters
    const bound = Math.floor(0x1_0000_0000 / alphabet.length) * alphabet.length
    let text = ""
    for (let left = length; left > 0; ) {
      for (const one of crypto.getRandomValues(new Uint32Array(left))) {
        if (one >= bound) continue
        text += alphabet[one % alphabet.length] ?? ""
        left--
      }
    }
    return text
  })

/** A hash of parts, no two lists of which are one text: 43 URL-safe characters. */
export type Hash = (...parts: ReadonlyArray<string>) => Effect.Effect<string>

/** SHA-256, or HMAC with it under a secret. */
export const hash = (secret: Redacted.Redacted | undefined): Hash => {
  if (secret === undefined) {
    return (...parts) =>
      Effect.map(
        Effect.promise(() => crypto.subtle.digest("SHA-256", bytesOf(parts))),
        textOf
      )
  }
  let key: Promise<CryptoKey> | undefined
  const imported = () => {
    key ??= crypto.subtle.importKey(
      "raw",
      new TextEncoder().encode(Redacted.value(secret)),
      { name: "HMAC", hash: "SHA-256" },
      false,
      ["sign"]
    )
    return key
  }
  return (...parts) =>
    Effect.map(
      Effect.flatMap(Effect.promise(imported), (made) =>
        Effect.promise(() => crypto.subtle.sign("HMAC", made, bytesOf(parts)))
      ),
      textOf
    )
}

const bytesOf = (parts: ReadonlyArray<string>) => new TextEncoder().encode(JSON.stringify(parts))

const textOf = (bytes: ArrayBuffer): string => Encoding.encodeBase64Url(new Uint8Array(bytes))
