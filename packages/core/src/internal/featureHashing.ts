/**
 * A keyless embedder of English text by signed feature hashing: words, stems, pairs and runs of letters, weighted so
 * that rare-looking words count more than common ones and typing errors still match.
 */
import { commonWords } from "./commonWords.ts"

/** Changes whenever the same text would give another vector. */
export const model = "local-hashing-1"

const weights = { stem: 1, compound: 0.6, pair: 0.35, skeleton: 0.2, grams: 0.8 } as const

/** FNV-1a of UTF-16 units, then Murmur3's finalizer, so that every bit depends on every letter. */
const hash = (text: string, seed: number): number => {
  let h = (0x811c9dc5 ^ seed) >>> 0
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i)
    h = Math.imul(h ^ (unit & 0xff), 0x01000193)
    h = Math.imul(h ^ (unit >>> 8), 0x01000193)
  }
  h ^= h >>> 16
  h = Math.imul(h, 0x85ebca6b)
  h ^= h >>> 13
  h = Math.imul(h, 0xc2b2ae35)
  return (h ^ (h >>> 16)) >>> 0
}

const isVowel = (word: string, i: number): boolean => "aeiouy".includes(word[i] ?? "")

const hasVowel = (word: string): boolean => /[aeiouy]/.test(word)

/** A double consonant left by a cut ending becomes one: stopp(ed), runn(ing). */
const undouble = (word: string): string => {
  const last = word.length - 1
  return last > 1 && word[last] === word[last - 1] && !isVowel(word, last) && !"ls".includes(word[last] ?? "")
    ? word.slice(0, -1)
    : word
}

/** Endings of nouns and adjectives that hide a common root, longest first. What is left must be a word of its own. */
const endings: ReadonlyArray<readonly [ending: string, instead: string, atLeast: number]> = [
  ["ization", "ize", 4],
  ["ational", "ate", 4],
  ["fulness", "ful", 4],
  ["ousness", "ous", 4],
  ["ability", "able", 4],
  ["ibility", "ible", 4],
  ["ation", "ate", 4],
  ["ition", "it", 4],
  ["ically", "ic", 4],
  ["ement", "e", 5],
  ["ment", "", 4],
  ["ness", "", 4],
  ["ction", "ct", 3],
  ["sion", "s", 4],
  ["tion", "t", 3],
  ["ally", "al", 4],
  ["ily", "y", 4],
  ["ly", "", 4],
  ["al", "", 5],
  ["er", "", 4],
  ["or", "", 4]
]

/**
 * A light stemmer in the manner of Porter: plurals, -ed, -ing, -ly and a few noun endings. It errs on the side of
 * leaving a word alone; the runs of letters make up for what it misses.
 */
export const stem = (input: string): string => {
  let word = input
  if (word.length <= 3 || !/^[a-z]+$/.test(word)) return word
  if (word.endsWith("ies") && word.length > 4) word = `${word.slice(0, -3)}y`
  else if (/(ss|x|ch|sh|z)es$/.test(word)) word = word.slice(0, -2)
  else if (word.endsWith("s") && !/(ss|us|is)$/.test(word)) word = word.slice(0, -1)
  if (word.endsWith("ied") && word.length > 4) word = `${word.slice(0, -3)}y`
  else if (word.endsWith("eed")) word = word.slice(0, -1)
  else if (word.endsWith("ed") && word.length > 4 && hasVowel(word.slice(0, -2))) word = undouble(word.slice(0, -2))
  else if (word.endsWith("ing") && word.length > 5 && hasVowel(word.slice(0, -3))) word = undouble(word.slice(0, -3))
  for (const [ending, instead, atLeast] of endings) {
    if (word.endsWith(ending) && word.length - ending.length >= atLeast) {
      word = undouble(word.slice(0, -ending.length) + instead)
      break
    }
  }
  // "cache", "caching" and "cached" meet without their last e; so do "retry" and "retries" as retri.
  if (word.length > 3 && word.endsWith("e")) word = word.slice(0, -1)
  if (word.length > 3 && word.endsWith("y") && !isVowel(word, word.length - 2)) word = `${word.slice(0, -1)}i`
  return word
}

/** The consonants of a word, doubled ones once: what most misspellings leave alone. */
const skeleton = (word: string): string | undefined => {
  const bones = word.slice(0, 1) + word.slice(1).replace(/[aeiouyh]/g, "")
  const single = bones.replace(/(.)\1+/g, "$1")
  return single.length >= 3 ? single : undefined
}

interface Word {
  readonly text: string
  readonly stem: string
  readonly weight: number
}

/**
 * The words of a text, and the compounds that it writes as one: `max_connections`, `CrashLoopBackOff`, `x-request-id`
 * are both themselves and their parts.
 */
const tokenize = (text: string): { readonly words: ReadonlyArray<Word>; readonly compounds: ReadonlyArray<string> } => {
  const words: Array<Word> = []
  const compounds: Array<string> = []
  const plain = text
    .normalize("NFKD")
    .replace(/\p{M}+/gu, "")
    .replace(/(\p{L})['\u2019](\p{L})/gu, "$1$2")
  for (const [run] of plain.matchAll(/[\p{L}\p{N}]+(?:[._:/-]+[\p{L}\p{N}]+)*/gu)) {
    const parts = run
      .replace(/(\p{Ll})(\p{Lu})/gu, "$1 $2")
      .replace(/(\p{Lu})(\p{Lu}\p{Ll})/gu, "$1 $2")
      .toLowerCase()
      .split(/[^\p{L}\p{N}]+/u)
      .filter((part) => part !== "")
    if (parts.length > 1) compounds.push(parts.join(""))
    for (const part of parts) {
      const weight = commonWords.get(part) ?? (part.length === 1 ? 0.3 : 1)
      words.push({ text: part, stem: stem(part), weight })
    }
  }
  return { words, compounds }
}

/**
 * The vector of a text, of length one. A text without a word has a vector of its own, so that it has a direction.
 */
export const embed = (text: string, dimensions: number): ReadonlyArray<number> => {
  const features = new Map<string, { weight: number; count: number }>()
  const add = (feature: string, weight: number): void => {
    const known = features.get(feature)
    if (known === undefined) features.set(feature, { weight, count: 1 })
    else {
      known.count++
      if (weight > known.weight) known.weight = weight
    }
  }
  const { compounds, words } = tokenize(text)
  let previous: Word | undefined
  for (const word of words) {
    add(`w ${word.stem}`, weights.stem * word.weight)
    if (word.weight >= 0.3 && previous !== undefined) {
      add(`p ${previous.stem} ${word.stem}`, weights.pair * Math.sqrt(previous.weight * word.weight))
    }
    // Small words stand between the two of a pair without parting them: "out of memory", "full of logs".
    if (word.weight >= 0.3) previous = word
    if (word.stem.length < 3 || word.weight < 0.3 || /^\p{N}+$/u.test(word.text)) continue
    const bones = skeleton(word.stem)
    if (bones !== undefined) add(`s ${bones}`, weights.skeleton * word.weight)
    const framed = `^${word.stem}$`
    const grams = framed.length - 2
    for (let i = 0; i < grams; i++) {
      add(`g ${framed.slice(i, i + 3)}`, (weights.grams * word.weight) / Math.sqrt(grams))
    }
  }
  for (const compound of compounds) {
    // One that is written as two words elsewhere meets it as a word: "time-out", "timeout".
    add(`w ${stem(compound)}`, weights.compound)
  }
  if (features.size === 0) add("nothing", 1)
  const vector = new Float64Array(dimensions)
  for (const [feature, { count, weight }] of features) {
    const value = weight * (1 + Math.log(count))
    const at = hash(feature, 0) % dimensions
    vector[at] = (vector[at] ?? 0) + (hash(feature, 0x9e3779b9) & 1 ? value : -value)
  }
  let squares = 0
  for (const value of vector) squares += value * value
  // Two features can cancel out and leave nothing.
  if (squares === 0) return Array.from(vector, (_, i) => (i === 0 ? 1 : 0))
  const length = Math.sqrt(squares)
  return Array.from(vector, (value) => value / length)
}
