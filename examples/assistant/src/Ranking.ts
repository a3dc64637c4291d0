/**
 * Keyword ranking in this process: BM25 over weighted fields, with typing errors, words run together, word pairs and
 * the words that operators use for one another.
 *
 * @since 0.1.0
 */
import { contentWords, editDistance, related, type Word } from "./Words.ts"

/**
 * One text of a document, and how much a word in it counts.
 *
 * @since 0.1.0
 * @category models
 */
export interface Field {
  readonly text: string
  readonly weight: number
}

/**
 * What is ranked: its fields, and an id.
 *
 * @since 0.1.0
 * @category models
 */
export interface Document {
  readonly id: string
  readonly fields: ReadonlyArray<Field>
}

/**
 * A document that shares words with the question. Higher is better; scores of one index compare with one another only.
 *
 * @since 0.1.0
 * @category models
 */
export interface Ranked {
  readonly id: string
  readonly score: number
}

/**
 * The answer of an index: the documents in order, and how much of the question's words were found anywhere
 * (`known`, 0 to 1): a question about something else finds next to nothing.
 *
 * @since 0.1.0
 * @category models
 */
export interface Ranking {
  readonly ranked: ReadonlyArray<Ranked>
  readonly known: number
}

/**
 * An index over documents that do not change.
 *
 * @since 0.1.0
 * @category models
 */
export interface Index {
  readonly rank: (question: string) => Ranking
  /** What each topical word of a text is in this index: how surely, and the stems it stands for, each with its weight. */
  readonly recognise: (text: string) => ReadonlyArray<Recognised>
}

/**
 * A word of the index that a word of a question stands for; `weight` (0 to 1) says how surely.
 *
 * @since 0.1.0
 * @category models
 */
export interface Term {
  readonly stem: string
  readonly weight: number
}

/**
 * A word of a text as an index knows it: `certainty` is that of its best term, 0 for a word that is unknown.
 *
 * @since 0.1.0
 * @category models
 */
export interface Recognised {
  readonly word: Word
  readonly certainty: number
  readonly terms: ReadonlyArray<Term>
}

const b = 0.6
const pairWeight = 0.8
const relatedWeight = 0.45

const pairsOf = (words: ReadonlyArray<Word>): ReadonlyArray<string> =>
  words.slice(1).map((word, i) => `${words[i]?.stem ?? ""} ${word.stem}`)

/**
 * Builds an index. `saturation` is BM25's k1: how many times a word must be said before more of it hardly counts; long
 * documents want it higher.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (documents: ReadonlyArray<Document>, options?: { readonly saturation?: number }): Index => {
  const k1 = options?.saturation ?? 1.4
  const postings = new Map<string, Map<number, number>>()
  const written = new Map<string, string>()
  const frequency = new Map<string, number>()
  const lengths: Array<number> = []
  const add = (term: string, document: number, weight: number) => {
    const posting = postings.get(term) ?? new Map<number, number>()
    posting.set(document, (posting.get(document) ?? 0) + weight)
    postings.set(term, posting)
  }
  documents.forEach((document, index) => {
    let length = 0
    for (const field of document.fields) {
      const words = contentWords(field.text)
      length += words.length
      for (const word of words) {
        add(word.stem, index, field.weight)
        written.set(word.written, word.stem)
        frequency.set(word.written, (frequency.get(word.written) ?? 0) + 1)
      }
      for (const pair of pairsOf(words)) add(pair, index, field.weight * pairWeight)
    }
    lengths.push(length)
  })
  const average = lengths.reduce((sum, length) => sum + length, 0) / Math.max(1, documents.length)
  const inverse = (found: number): number => Math.log(1 + (documents.length - found + 0.5) / (found + 0.5))

  /** The word of the vocabulary that a mistyped one most probably is. */
  const nearest = (word: string): Term | undefined => {
    // In a short word one other letter is another word (`bread`, `read`): there only swapped letters count.
    if (word.length < 4 || /^\d+$/.test(word)) return undefined
    const allowed = word.length < 7 ? 1 : 2
    const letters = Array.from(word).sort().join("")
    let best: { readonly word: string; readonly distance: number; readonly count: number } | undefined
    for (const [candidate, count] of frequency) {
      if (candidate.length < 4 || candidate.includes("_")) continue
      let distance = editDistance(word, candidate, allowed)
      if (distance > allowed) continue
      const swapped = candidate.length === word.length && Array.from(candidate).sort().join("") === letters
      if (!swapped && (word.length < 5 || (word.length < 7 && candidate[0] !== word[0]))) continue
      if (candidate[0] !== word[0]) distance += 0.5
      if (best === undefined || distance < best.distance || (distance === best.distance && count > best.count)) {
        best = { word: candidate, distance, count }
      }
    }
    if (best === undefined) return undefined
    return { stem: written.get(best.word) ?? best.word, weight: best.distance <= 1 ? 0.8 : 0.6 }
  }

  /** Two words of the vocabulary written as one (`diskfull`). */
  const halves = (word: string): ReadonlyArray<Term> => {
    for (let at = 3; at <= word.length - 3; at++) {
      const left = written.get(word.slice(0, at))
      const right = written.get(word.slice(at))
      if (left !== undefined && right !== undefined)
        return [
          { stem: left, weight: 0.8 },
          { stem: right, weight: 0.8 }
        ]
    }
    return []
  }

  const termsOf = (word: Word): ReadonlyArray<Term> => {
    const terms: Array<Term> = []
    const here = postings.has(word.stem)
    if (here) terms.push({ stem: word.stem, weight: 1 })
    for (const other of related.get(word.stem) ?? []) {
      if (postings.has(other)) terms.push({ stem: other, weight: here ? relatedWeight : 0.8 })
    }
    if (terms.length > 0) return terms
    const near = nearest(word.written)
    if (near !== undefined) {
      terms.push(near)
      for (const other of related.get(near.stem) ?? []) {
        if (postings.has(other)) terms.push({ stem: other, weight: near.weight * relatedWeight })
      }
      return terms
    }
    return halves(word.written)
  }

  const rank = (question: string): Ranking => {
    const words = contentWords(question)
    const scores = new Map<number, number>()
    const score = (term: string, weight: number): Map<number, number> => {
      const found = new Map<number, number>()
      const posting = postings.get(term)
      if (posting === undefined) return found
      const value = inverse(posting.size)
      for (const [document, count] of posting) {
        const length = 1 - b + b * ((lengths[document] ?? average) / average)
        found.set(document, (weight * value * count * (k1 + 1)) / (count + k1 * length))
      }
      return found
    }
    let total = 0
    let known = 0
    const seen = new Set<string>()
    const best: Array<string> = []
    for (const word of words) {
      const terms = termsOf(word)
      best.push(terms[0]?.stem ?? word.stem)
      if (seen.has(word.stem)) continue
      seen.add(word.stem)
      const first = terms[0]
      total += 1
      known += first?.weight ?? 0
      // A word and those used for it count once: the best of them, in each document.
      const together = new Map<number, number>()
      for (const term of terms) {
        for (const [document, points] of score(term.stem, term.weight)) {
          together.set(document, Math.max(points, together.get(document) ?? 0))
        }
      }
      for (const [document, points] of together) scores.set(document, (scores.get(document) ?? 0) + points)
    }
    const pairs = new Set<string>()
    for (let i = 1; i < best.length; i++) {
      pairs.add(`${best[i - 1] ?? ""} ${best[i] ?? ""}`)
      // `time out` where the text says `timeout`
      const joined = `${words[i - 1]?.written ?? ""}${words[i]?.written ?? ""}`
      const stem = written.get(joined)
      if (stem !== undefined && !seen.has(stem)) pairs.add(stem)
    }
    for (const pair of pairs) {
      for (const [document, points] of score(pair, 1)) scores.set(document, (scores.get(document) ?? 0) + points)
    }
    return {
      ranked: Array.from(scores, ([document, points]) => ({ id: documents[document]?.id ?? "", score: points })).sort(
        (x, y) => y.score - x.score || (x.id < y.id ? -1 : 1)
      ),
      known: total === 0 ? 0 : known / total
    }
  }

  return {
    rank,
    recognise: (text) =>
      contentWords(text).map((word) => {
        const terms = termsOf(word)
        return { word, certainty: terms[0]?.weight ?? 0, terms }
      })
  }
}
