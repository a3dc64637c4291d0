/**
 * The words of a text and how well a document answers to them, by one rule for every store: BM25 over words that are
 * lower-cased and normalised, without stemming and without stop words.
 *
 * @since 0.1.0
 */

/**
 * The words of a text, each with how often it is there.
 *
 * @since 0.1.0
 * @category models
 */
export type Words = ReadonlyMap<string, number>

/**
 * How often a word of one text is counted at most: more repetitions say no more.
 *
 * @since 0.1.0
 * @category constructors
 */
export const maxCount = 128

/**
 * How many bytes of different words of one text are kept, in UTF-8. Words that are new after that are not found.
 *
 * @since 0.1.0
 * @category constructors
 */
export const maxBytes = 400_000

/**
 * How many different words of a question are looked for; those after them are not.
 *
 * @since 0.1.0
 * @category constructors
 */
export const maxQueryWords = 256

const longest = 64
const runs = /[\p{L}\p{N}\p{M}]+/gu
// Written without spaces between words: pairs of characters stand for them.
const unspaced =
  /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}\u30fc]+/gu

const utf8 = (text: string): number => {
  let bytes = 0
  for (const character of text) {
    const point = character.codePointAt(0) ?? 0
    bytes += point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4
  }
  return bytes
}

const cut = (word: string): string => (word.length <= longest ? word : Array.from(word).slice(0, longest).join(""))

function* pieces(text: string): Generator<string> {
  for (const [run] of text.normalize("NFKC").toLowerCase().matchAll(runs)) {
    let from = 0
    for (const match of run.matchAll(unspaced)) {
      if (match.index > from) yield cut(run.slice(from, match.index))
      const characters = Array.from(match[0])
      if (characters.length === 1) yield match[0]
      for (let i = 0; i + 1 < characters.length; i++) yield `${characters[i]}${characters[i + 1]}`
      from = match.index + match[0].length
    }
    if (from < run.length) yield cut(run.slice(from))
  }
}

/**
 * The words of a text: runs of letters, digits and marks, in Unicode's compatible form and lower case, cut at 64
 * characters. Of scripts that put no space between words (Chinese, Japanese, Thai and the like) each pair of characters
 * is one.
 *
 * @since 0.1.0
 * @category constructors
 */
export const words = (text: string): Words => {
  const counts = new Map<string, number>()
  let bytes = 0
  for (const piece of pieces(text)) {
    const count = counts.get(piece)
    if (count !== undefined) {
      if (count < maxCount) counts.set(piece, count + 1)
      continue
    }
    const size = utf8(piece)
    if (bytes + size > maxBytes) continue
    bytes += size
    counts.set(piece, 1)
  }
  return counts
}

/**
 * How many words a text has, with their repetitions as they are counted.
 *
 * @since 0.1.0
 * @category combinators
 */
export const length = (words: Words): number => {
  let sum = 0
  for (const count of words.values()) sum += count
  return sum
}

/**
 * The words that a question looks for: each once, in the order of their code units.
 *
 * @since 0.1.0
 * @category constructors
 */
export const queryWords = (text: string): ReadonlyArray<string> =>
  [...words(text).keys()].slice(0, maxQueryWords).sort((a, b) => (a < b ? -1 : a > b ? 1 : 0))

/**
 * BM25's saturation by repetition.
 *
 * @since 0.1.0
 * @category constructors
 */
export const k1 = 1.2

/**
 * BM25's correction for the length of a document.
 *
 * @since 0.1.0
 * @category constructors
 */
export const b = 0.75

/**
 * What a word is worth that `matching` of `documents` documents have.
 *
 * @since 0.1.0
 * @category combinators
 */
export const inverseFrequency = (documents: number, matching: number): number =>
  Math.log(1 + (documents - matching + 0.5) / (matching + 0.5))

/**
 * A document that has one of the words looked for, as `rank` takes it: `counts` beside the words of the question.
 *
 * @since 0.1.0
 * @category models
 */
export interface Candidate {
  readonly id: string
  readonly length: number
  readonly counts: ReadonlyArray<number>
}

/**
 * Ranks documents for the words of a question.
 *
 * @since 0.1.0
 * @category models
 */
export interface Ranking {
  /** Takes a document into account; one without words counts for nothing. */
  readonly add: (id: string, document: string) => void
  /** The scores of those that have a word that was asked for, in no order. Each is above zero. */
  readonly scores: () => ReadonlyArray<{ readonly id: string; readonly score: number }>
}

/**
 * A ranking by BM25 (Robertson and Zaragoza, "The Probabilistic Relevance Framework", 2009) that takes documents one by
 * one and keeps of them only counts. What is rare is judged among the documents that were added.
 *
 * @since 0.1.0
 * @category constructors
 */
export const ranking = (query: ReadonlyArray<string>): Ranking => {
  const candidates: Array<Candidate> = []
  const matching = query.map(() => 0)
  let documents = 0
  let total = 0
  return {
    add: (id, document) => {
      const found = words(document)
      const size = length(found)
      if (size === 0) return
      documents++
      total += size
      const counts = query.map((word) => found.get(word) ?? 0)
      if (counts.every((count) => count === 0)) return
      counts.forEach((count, index) => {
        if (count > 0) matching[index] = (matching[index] ?? 0) + 1
      })
      candidates.push({ id, length: size, counts })
    },
    scores: () => {
      const average = total / documents
      const worth = matching.map((count) => inverseFrequency(documents, count))
      return candidates.map(({ counts, id, length }) => ({
        id,
        score: counts.reduce(
          (sum, count, index) =>
            count === 0
              ? sum
              : sum + ((worth[index] ?? 0) * count * (k1 + 1)) / (count + k1 * (1 - b + (b * length) / average)),
          0
        )
      }))
    }
  }
}
