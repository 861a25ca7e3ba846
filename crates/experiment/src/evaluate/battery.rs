//! Attacks on chosen images of a data set, chunk by chunk.

use super::Progress;
use super::journal::{Chunk, Journal, Row};
use crate::data::Images;
use crate::measure::{Error, Result, pixels};
use gabion_learn::attack::{self, Campaign, Classifier, FRESH, Found, Image, Pass, Region, first_of_greatest};
use gabion_spec::{Attack, Pixels};
use std::cell::Cell;
use std::time::Instant;

/// What is attacked, on which images, and where what was done is kept.
pub(super) struct Battery<'a> {
    pub(super) images: &'a Images,
    /// The images that are measured: indices, rising.
    pub(super) indices: &'a [usize],
    pub(super) seed: u64,
    /// Images attacked together.
    pub(super) batch: usize,
    pub(super) journal: &'a Journal,
    /// Time that everything took so far, that of an earlier process included.
    pub(super) seconds: &'a Cell<f64>,
    /// Keep the values of images that were not fooled too.
    pub(super) keep: bool,
}

/// An attack within a budget, with the name that it goes by.
#[derive(Clone, Debug)]
pub(super) struct Order {
    /// In rows and progress, and as the name of its files.
    pub(super) name: String,
    /// What decides the result beyond attack, region and name.
    pub(super) extra: String,
    /// Added to the seed, for runs that must not repeat another's random numbers.
    pub(super) seed: u64,
    pub(super) attack: Attack,
    pub(super) region: Region,
}

impl Order {
    pub(super) fn named(name: String, attack: Attack, region: Region) -> Self {
        Self { name, extra: String::new(), seed: 0, attack, region }
    }

    pub(super) fn new(attack: Attack, region: Region) -> Self {
        Self::named(format!("{} {}", attack.name(), Pixels(region.epsilon)), attack, region)
    }
}

/// What came of an attack.
pub(super) struct Attacked {
    /// Of each image, by its place among the indices.
    pub(super) found: Vec<(usize, Found)>,
    /// The greatest distance of an image that fooled, in the attack's norm.
    pub(super) farthest: f32,
    pub(super) seconds: f64,
}

impl Attacked {
    /// The places of the images that were fooled, rising.
    pub(super) fn fallen(&self) -> Vec<usize> {
        self.found.iter().filter(|(_, found)| found.fooled()).map(|(place, _)| *place).collect()
    }
}

/// What an attack by any function of images gives.
pub(super) type Made = Result<Vec<Found>>;

/// Of passes that failed no number is kept: the reason is said, and not that they are not finite.
fn finished(victim: &dyn Classifier) -> Result<()> {
    victim.failed().map_or(Ok(()), |why| Err(Error::Views { why }))
}

impl Battery<'_> {
    /// Values of an image.
    fn length(&self) -> usize {
        3 * self.images.height * self.images.width
    }

    pub(super) fn label(&self, place: usize) -> usize {
        usize::from(self.images.labels[self.indices[place]])
    }

    /// The pixels of some images, `[places, 3, height, width]`.
    pub(super) fn pixels(&self, places: &[usize]) -> Vec<f32> {
        let indices: Vec<usize> = places.iter().map(|&place| self.indices[place]).collect();
        pixels(self.images, &indices).try_into_vec::<f32>().expect("pixels are f32")
    }

    /// Logits of every image as it is; `observe` hears of each chunk how many are done and right.
    pub(super) fn clean(
        &self,
        victim: &dyn Classifier,
        observe: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<Vec<f32>>> {
        let mut all: Vec<Vec<f32>> = Vec::with_capacity(self.indices.len());
        let mut right = 0;
        let places: Vec<usize> = (0..self.indices.len()).collect();
        for chunk in places.chunks(self.batch) {
            for row in self.logits(victim, &self.pixels(chunk), chunk)? {
                right += usize::from(first_of_greatest(&row) == self.label(all.len()));
                all.push(row);
            }
            observe(all.len(), right);
        }
        Ok(all)
    }

    /// Logits of images that lie at these places.
    pub(super) fn logits(&self, victim: &dyn Classifier, x: &[f32], places: &[usize]) -> Result<Vec<Vec<f32>>> {
        let names: Vec<u64> = places.iter().map(|&place| self.indices[place] as u64).collect();
        let logits = victim.logits(x, Pass { images: &names, draw: FRESH });
        finished(victim)?;
        let rows: Vec<Vec<f32>> = logits.chunks_exact(victim.classes()).map(<[f32]>::to_vec).collect();
        match rows.iter().position(|row| !row.iter().all(|logit| logit.is_finite())) {
            Some(row) => Err(Error::NotFinite { part: "test", image: self.indices[places[row]] }),
            None => Ok(rows),
        }
    }

    /// Attacks the images at `standing`, rising; chunks that the journal has are not done again.
    pub(super) fn attack(
        &self,
        victim: &dyn Classifier,
        order: &Order,
        standing: &[usize],
        observer: &mut dyn FnMut(Progress),
    ) -> Result<Attacked> {
        let size = [self.images.height, self.images.width];
        let campaign = Campaign { victim, region: order.region, size, seed: self.seed.wrapping_add(order.seed) };
        self.assault(order, standing, observer, &mut |images| {
            let found = attack::run(&order.attack, campaign, images);
            finished(victim).map(|()| found)
        })
    }

    /// The same by any function of images.
    pub(super) fn assault(
        &self,
        order: &Order,
        standing: &[usize],
        observer: &mut dyn FnMut(Progress),
        run: &mut dyn FnMut(&[Image<'_>]) -> Made,
    ) -> Result<Attacked> {
        let Order { name, region, .. } = order;
        let detail = format!("{name} {:?} {region:?} {} {}", order.attack, order.seed, order.extra);
        let row = Row { name, detail: &detail };
        let (mut all, mut seconds, mut fallen) = (Vec::with_capacity(standing.len()), 0.0, 0);
        let mut farthest = 0.0f32;
        let told = |done: usize, fallen: usize| Progress {
            what: name.clone(),
            done,
            total: standing.len(),
            right: standing.len() - fallen,
            images: self.indices.len(),
        };
        observer(told(0, 0));
        // By those that stand, so that passes stay as large as they may be however many have fallen.
        for (number, places) in standing.chunks(self.batch).enumerate() {
            let start = number * self.batch;
            let names: Vec<u64> = places.iter().map(|&place| self.indices[place] as u64).collect();
            let x = self.pixels(places);
            let rows = places.iter().zip(&names).zip(x.chunks_exact(self.length()));
            let images: Vec<Image<'_>> =
                rows.map(|((&place, &name), x)| Image { name, label: self.label(place), x }).collect();
            let chunk = match self.journal.read(row, start, &names, self.length()) {
                Some(chunk) => chunk,
                None => {
                    let began = Instant::now();
                    let mut found = run(&images)?;
                    if !self.keep {
                        found.iter_mut().filter(|found| !found.fooled()).for_each(|found| found.x = Vec::new());
                    }
                    let chunk = Chunk { found, seconds: began.elapsed().as_secs_f64() };
                    self.journal.write(row, start, &names, &chunk)?;
                    chunk
                }
            };
            // What a file says is looked at as closely as what was just made.
            for (image, found) in
                images.iter().zip(&chunk.found).filter(|(_, found)| found.fooled() && !found.x.is_empty())
            {
                if !region.contains(image.x, &found.x, 1e-6) {
                    return Err(Error::OutsideBall { image: image.name as usize, epsilon: Pixels(region.epsilon) });
                }
                farthest = farthest.max(region.distance(image.x, &found.x));
            }
            seconds += chunk.seconds;
            self.seconds.set(self.seconds.get() + chunk.seconds);
            fallen += chunk.found.iter().filter(|found| found.fooled()).count();
            all.extend(places.iter().copied().zip(chunk.found));
            observer(told(all.len(), fallen));
        }
        Ok(Attacked { found: all, farthest, seconds })
    }
}
