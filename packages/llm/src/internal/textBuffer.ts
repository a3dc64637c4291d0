/**
 * A text that grows by small pieces. A string that is added to a million times is a chain of a million objects: here the
 * pieces are joined a few hundred at a time, so that what is kept is hardly more than the characters.
 */

const batch = 256

export class TextBuffer {
  private readonly joined: Array<string> = []
  private recent: Array<string> = []
  private whole: string | undefined = ""

  get isEmpty(): boolean {
    return this.whole === ""
  }

  add(piece: string): void {
    if (piece === "") return
    this.recent.push(piece)
    this.whole = undefined
    if (this.recent.length === batch) {
      this.joined.push(this.recent.join(""))
      this.recent = []
    }
  }

  toString(): string {
    if (this.whole === undefined) {
      this.whole = this.joined.concat(this.recent).join("")
      this.joined.length = 0
      this.recent = [this.whole]
    }
    return this.whole
  }
}
