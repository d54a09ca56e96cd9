//! The detector of earlier versions, for comparison: the share of cells that differ from a background which follows each picture
//! by a tenth, once the mean change of the picture is subtracted.

#[derive(Default)]
pub(in crate::media) struct Difference {
    background: Vec<f32>,
}

impl Difference {
    /// Whether enough of the picture moved.
    pub fn see(&mut self, grey: &[u8]) -> bool {
        if grey.len() != self.background.len() {
            self.background = grey.iter().copied().map(f32::from).collect();
            return false;
        }
        let cells = grey.len() as f32;
        let brighter = grey.iter().zip(&self.background).map(|(&now, was)| f32::from(now) - was).sum::<f32>() / cells;
        let moved = grey.iter().zip(&self.background).filter(|&(&now, was)| (f32::from(now) - was - brighter).abs() > 18.0).count();
        let share = moved as f32 / cells;
        if share > 0.8 {
            self.background.clear();
            return false;
        }
        for (was, &now) in self.background.iter_mut().zip(grey) {
            *was += (f32::from(now) - *was) * 0.1;
        }
        share >= 0.005
    }
}
