/**
 * Words of general English that say little about what a text is about, by how much they still say.
 */

const functionWords = `
a about above after again against all almost also although always am among an and another any anybody anyone anything
are arent around as at away be became because been before behind being below between both but by can cannot cant could
couldnt did didnt do does doesnt doing dont done down during each either else ever every everybody everyone everything
for from get gets getting given gives go goes going gone got had hadnt has hasnt have havent having he her here hers
herself hi hello him himself his how however i id if ill im in into is isnt it its itself ive just keep keeps kind know
let lets like lot lots make makes many may maybe me might more most much must my myself neither never no nobody none nor
not nothing now of off oh ok okay on once one only onto or other others ought our ours ourselves out over own per please
quite rather really said same say says see seem seems shall she should shouldnt since so some somebody somehow someone
something sometimes still such sure tell than thank thanks that thats the their theirs them themselves then there theres
these they theyre thing things think this those though through thus till to together too toward towards under unless
until up upon us very via want wants was wasnt way we well went were werent what whatever whats when whenever where
whether which while who whole whom whose why will with within without wont would wouldnt yes yet you youd youll your
youre yours yourself youve
`

const plainWords = `
able across actually add added ago ahead already am back bad become becomes begin begins best better big bit bring
brought call called came case cases cause causes certain change changed changes check close come comes complete
completely course day days different difference easy end enough entire especially etc even exactly example far fast few
find fine first fix follow following found full gave general give good great group guess guy guys half hand happen
happened happening happens hard hear help here high hope hour hours idea important include instead interesting issue
issues keep kept last late lately later latest least leave left less line little live long longer look looking looks
main making man mean means minute minutes moment month months morning move near need needed needs new next nice night
normal normally often old open ones order part people perhaps place plan point possible pretty probably problem problems
properly put question quick quickly ran read ready real reason recent recently remain rest right room round run running
runs second seconds seeing seen set several short show showing shows side simple simply single situation small somewhere
soon sort start started starting starts state stay step steps stop stopped stops stuff suddenly suggest take taken takes
taking talk team thought three time times today told tomorrow tonight took top total tried trouble true try trying turn
turned two type understand use used useful user users uses using usual usually various wait wanted week weeks weird went
whats word words work worked working works world wrong yesterday year years
`

const words = (text: string): ReadonlyArray<string> => text.trim().split(/\s+/)

/** The share of its weight that a common word keeps. Words that are not here keep all of it. */
export const commonWords: ReadonlyMap<string, number> = new Map([
  ...words(plainWords).map((word) => [word, 0.3] as const),
  ...words(functionWords).map((word) => [word, 0.04] as const)
])
