/**
 * Instants in ISO 8601, as programs in several languages write them.
 */

const zoneless = /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?$/

/**
 * Milliseconds since 1970, or undefined where the text is no instant. A time without a zone is UTC, as the programs mean
 * it that write it so (Python's `utcnow().isoformat()`); JavaScript alone would take it for the machine's local time.
 */
export const parse = (text: string): number | undefined => {
  const at = Date.parse(zoneless.test(text) ? `${text.replace(",", ".")}Z` : text)
  return Number.isNaN(at) ? undefined : at
}
